"""Reading images and labels out of files, archives and data sets of other libraries."""
