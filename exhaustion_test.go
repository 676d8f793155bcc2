package peercache_test

func runShortOfDescriptors() {}
