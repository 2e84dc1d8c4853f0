"""An inference server over HTTP, and its page."""
