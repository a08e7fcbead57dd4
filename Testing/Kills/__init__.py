"""Kills HyperReg at random moments and looks at what is left: run by hand (`make kills`)."""
