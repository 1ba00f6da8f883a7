//! A message within every limit, whatever is in it.
