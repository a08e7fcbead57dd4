"""Label fusion: several label maps of one image into one consensus; and atlases, which give such maps by registration.

`stack` brings label maps onto one grid; `voting`, `staple` and `local` fuse them, `consensus` is what all of them
return; `methods.fuse` chooses among them by name.
"""
