//! A preloaded library that fails `fork` and `fsync` of one server while a flag file says so.
//!
//! Real forks and disks fail the same way, but not on demand and not without root. Refuses to know: Redis.
//! Invariant: without flag files the server behaves as if the library were not there.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;

use super::super::server::{Site, run};
use super::Undo;

/// Each call looks for its flag file: `fail-fork` holds the errno to fail with, `fail-fsync` only has to exist.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int flagged(const char *name) {
    const char *dir = getenv("BGSAFE_SHIM_DIR");
    if (!dir) return 0;
    char path[4096], text[16] = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    int code = got > 0 ? atoi(text) : 0;
    return code ? code : EIO;
}

pid_t fork(void) {
    int code = flagged("fail-fork");
    if (code) { errno = code; return -1; }
    pid_t (*real)(void) = dlsym(RTLD_NEXT, "fork");
    return real();
}

int fsync(int fd) {
    int code = flagged("fail-fsync");
    if (code) { errno = code; return -1; }
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return real(fd);
}

int fdatasync(int fd) {
    int code = flagged("fail-fsync");
    if (code) { errno = code; return -1; }
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return real(fd);
}
"#;

/// Compiles the library into the server's scratch directory.
pub fn compile(root: &Path) -> io::Result<()> {
    let source = root.join("shim.c");
    std::fs::write(&source, SOURCE)?;
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(root.join("shim.so"))
        .arg(&source)
        .arg("-ldl"))
}

/// What the server's environment must say.
pub fn environment(root: &Path) -> Vec<(&'static str, OsString)> {
    vec![("LD_PRELOAD", root.join("shim.so").into()), ("BGSAFE_SHIM_DIR", root.into())]
}

/// From now on, and until undone, the call fails with this errno.
pub(super) fn fail(site: &Site, flag: &'static str, errno: i32) -> io::Result<Undo> {
    let undo = {
        let root = site.root.clone();
        Undo::new(move || lower(&root, flag))
    };
    raise(&site.root, flag, errno)?;
    Ok(undo)
}

fn raise(root: &Path, flag: &str, errno: i32) -> io::Result<()> {
    // Written aside and renamed: the library never reads half a number.
    let aside = root.join(format!("{flag}.new"));
    std::fs::write(&aside, errno.to_string())?;
    std::fs::rename(aside, root.join(flag))
}

/// Lowers a flag.
pub fn lower(root: &Path, flag: &str) -> io::Result<()> {
    match std::fs::remove_file(root.join(flag)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
