"""Images with their geometry: volumes, files, transforms, resampling, normalisation. RAS mm everywhere."""
