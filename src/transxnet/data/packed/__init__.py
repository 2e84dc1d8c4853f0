"""Many images in few files: shards, tar files in the style of WebDataset, Parquet."""
