package conformance

// namedCheck is an entry of the list. A name is GROUP/WHAT.
type namedCheck struct {
	name string
	run  func(c *check)
	slow bool
}

// checks is the list, in the order of the run.
func checks() []namedCheck {
	return []namedCheck{
		{name: "path/not a directory", run: pathNotDirectory},
		{name: "path/missing", run: pathMissing},
		{name: "path/long name", run: pathLongName},
		{name: "path/long path", run: pathLongPath},
		{name: "path/loop", run: pathLoop},
		{name: "path/trailing slash", run: pathTrailingSlash},
		{name: "path/bad address", run: pathBadAddress},
		{name: "access/directory", run: accessDirectory},
		{name: "access/file", run: accessFile},
		{name: "access/foreign file", run: accessForeign},
		{name: "create/mode", run: createMode},
		{name: "create/owner", run: createOwner},
		{name: "create/times", run: createTimes},
		{name: "create/exists", run: createExists},
		{name: "create/device", run: createDevice},
		{name: "times/success", run: timesSuccess},
		{name: "times/failure", run: timesFailure},
		{name: "mount/read-only", run: mountReadOnly},
		{name: "mount/other device", run: mountOtherDevice},
		{name: "mount/busy", run: mountBusy},
		{name: "chmod/mode", run: chmodMode},
		{name: "chmod/owner", run: chmodOwner},
		{name: "chmod/sticky", run: chmodSticky},
		{name: "chmod/set-id", run: chmodSetID},
		{name: "chown/root", run: chownRoot},
		{name: "chown/group", run: chownGroup},
		{name: "chown/nothing", run: chownNothing},
		{name: "chown/foreign", run: chownForeign},
		{name: "chown/set-id", run: chownSetID},
		{name: "truncate/size", run: truncateSize},
		{name: "truncate/errors", run: truncateErrors},
		{name: "truncate/open file", run: truncateOpen},
		{name: "fallocate/size", run: fallocateSize},
		{name: "link/count", run: linkCount},
		{name: "link/errors", run: linkErrors},
		{name: "link/most", run: linkMost, slow: true},
		{name: "open/flags", run: openFlagsOf},
		{name: "open/truncate", run: openTruncate},
		{name: "open/special", run: openSpecial},
		{name: "open/running program", run: openRunning},
		{name: "open/unlinked", run: openUnlinked},
		{name: "open/far", run: openFar},
		{name: "symlink/target", run: symlinkTarget},
		{name: "unlink/types", run: unlinkTypes},
		{name: "rmdir/types", run: rmdirTypes},
		{name: "rename/types", run: renameTypes},
		{name: "rename/over", run: renameOver},
		{name: "rename/errors", run: renameErrors},
		{name: "rename/directories", run: renameDirectories},
		{name: "sticky/remove", run: stickyRemove},
		{name: "sticky/rename out", run: stickyRenameOut},
		{name: "sticky/rename over", run: stickyRenameOver},
		{name: "sticky/directories", run: stickyDirectories},
		{name: "utimensat/set", run: utimensSet},
		{name: "utimensat/permission", run: utimensPermission},
	}
}

// fullChecks is the list for a small file system, which they fill.
func fullChecks() []namedCheck {
	return []namedCheck{{name: "full/inodes", run: fullInodes}}
}
