"""What a trained network saw in an image: filters, feature maps, class-activation maps, attention, steps of a scan.

Everything here takes a classifier and one preprocessed image 1 C H W in [0, 1], on the classifier's device, and leaves
the classifier as it was: no hook stays, every part is in the mode it was in, no parameter gains a gradient.
"""
