"""The engine `echo`: an example of an engine that another package brings."""
