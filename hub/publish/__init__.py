"""Between a model folder and its repository on the Hub."""
