"""What people look at: figures, grids of images, and the one page that holds them."""
