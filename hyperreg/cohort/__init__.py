"""Many registrations on one machine or on many: cohorts of pairs, and templates of populations."""
