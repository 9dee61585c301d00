"""What a bundle or an exported file says of images, and how good it is."""
