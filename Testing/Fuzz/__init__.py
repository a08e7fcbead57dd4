"""Damaged files by the thousand: what is read must be right, refused in words, or a change that nobody could see."""
