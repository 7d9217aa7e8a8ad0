"""What makes evaluation at every iteration cheap; each gives the counts of the plain way, or says how far it is off."""
