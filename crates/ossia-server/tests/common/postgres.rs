//! A PostgreSQL server of the test's own: in a directory of its own, on a socket in there, gone with the test.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// The user that the server runs as where tests run as root, which PostgreSQL refuses: nobody.
const UNPRIVILEGED_ID: u32 = 65534;

pub(crate) struct Postgres {
    child: Child,
    dir: TempDir,
}

impl Postgres {
    /// Starts a server; `None` where PostgreSQL is not installed, which CI does not accept.
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = bin_dir() else {
            eprintln!("\n*** PostgreSQL is not installed: NOT TESTED (run `cargo xtask setup`) ***\n");
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("ossia-pg-").tempdir_in("/tmp").unwrap();
        if is_root() {
            std::os::unix::fs::chown(dir.path(), Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID)).unwrap();
        }
        let data = dir.path().join("data");
        let made = unprivileged(&bin.join("initdb"))
            .args(["--auth=trust", "--username=ossia", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let child = spawn(&bin, dir.path());
        let mut server = Self { child, dir };
        server.wait_until_ready(&bin);
        Some(server)
    }

    /// Shuts down at once, which ends every connection.
    pub(crate) fn stop(&mut self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap();
    }

    /// Starts again after [`Postgres::stop`], on the same data.
    pub(crate) fn start_again(&mut self) {
        let bin = bin_dir().unwrap();
        self.child = spawn(&bin, self.dir.path());
        self.wait_until_ready(&bin);
    }

    /// The URL of a new database.
    pub(crate) fn database(&self, name: &str) -> String {
        let bin = bin_dir().unwrap();
        let made = Command::new(bin.join("createdb"))
            .args(["-U", "ossia", "-h"])
            .arg(self.dir.path())
            .arg(name)
            .output()
            .unwrap();
        assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://ossia@localhost/{name}?host={}", self.dir.path().display())
    }

    fn wait_until_ready(&mut self, bin: &Path) {
        loop {
            let ready =
                Command::new(bin.join("pg_isready")).arg("-q").arg("-h").arg(self.dir.path()).status();
            if ready.unwrap().success() {
                return;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "postgres ended before it was ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown: nobody will miss the data.
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn spawn(bin: &Path, dir: &Path) -> Child {
    unprivileged(&bin.join("postgres"))
        .args(["-c", "listen_addresses=", "-c", "fsync=off", "-D"])
        .arg(dir.join("data"))
        .arg("-k")
        .arg(dir)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn bin_dir() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = debian.chain(std::env::split_paths(&path));
    dirs.find(|dir| {
        ["initdb", "postgres", "createdb", "pg_isready"].iter().all(|name| dir.join(name).exists())
    })
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// A command that does not run as root.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={UNPRIVILEGED_ID}")).arg(format!("--regid={UNPRIVILEGED_ID}"));
    command.arg("--clear-groups").arg(program);
    command
}
