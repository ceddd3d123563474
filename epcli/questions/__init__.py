"""Questions with known answers: one record, and the file formats that it is read from."""
