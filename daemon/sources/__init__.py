"""Sources: raw thing -> Event (a pure function), and a thread that tells its system only after the receipt."""
