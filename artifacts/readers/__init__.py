"""How the rows of each kind of data file are read. `tables` chooses the reader by the suffix."""
