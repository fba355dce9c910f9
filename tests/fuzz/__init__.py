"""Any arguments: each is taken, or refused by an error of the store that changes nothing."""
