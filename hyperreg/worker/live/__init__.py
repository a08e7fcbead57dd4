"""The live registration, λ in and fields out: a scheduler, what is known of a pair, one frozen state for observers."""
