"""One rank's true step without its data, its device or its peers: fake tensors, fake process group."""
