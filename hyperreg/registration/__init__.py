"""Registration: velocity fields, linear alignment, models, and the live session (λ in, displacement field out)."""
