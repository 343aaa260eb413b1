"""Interactions and occlusion of public ImageNet networks on photographs, at 224 pixels.

``measure``   records of interactions, in rounds of images, until a time of day
``collect``   what runs have left, as small tables of results/photographs
``report``    numbers, figures and the write-up, from those tables alone
"""
