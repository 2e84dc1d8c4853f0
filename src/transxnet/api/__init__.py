"""The Python interface of what the commands do; ``transxnet`` exports it, and imports it when it is used."""
