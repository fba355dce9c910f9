"""SQLModel sessions of the caller's own, on connections that are leased from the store's pool."""
