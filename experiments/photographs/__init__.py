"""Interactions and occlusion of public ImageNet networks on photographs, at 224 pixels.

``measure``   records of interactions, in rounds of images, until a time of day
``tables``    what runs have left, in small files, and what is inferred from those
``figures``   drawn from these tables alone
``report``    all of it again, and the write-up
"""
