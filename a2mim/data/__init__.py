"""Images: folders, sets by name, tar files, streams, augmentation, loaders."""
