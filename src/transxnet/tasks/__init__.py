"""Loss and metrics around a network, one package a task."""
