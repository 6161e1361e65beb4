-- Ends its process while it is loaded.
os.exit(9)
