"""Files that come with the package: the demo song and trained models; README.md says whose."""
