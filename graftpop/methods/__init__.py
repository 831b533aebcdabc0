"""The methods, one a file, each made of ops and acting on a peer in one place."""
