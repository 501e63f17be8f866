//! How missing tools are built: with a `go` that does in no time what Go does in minutes, on a machine that has nothing else.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// What a `go build` is to do: it waits for the gate to be there, then writes a program.
const BUILD: &str = r#"while [ ! -e "$GATE" ]; do [ -e "$BUILDS" ] || exit 1; sleep 0.01; done
while [ "$1" != -o ]; do shift; done
echo '#!/bin/sh' > "$2"
chmod +x "$2""#;

struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    /// Has a shell and little else. `go` is what that script does; none without one.
    fn new(go: Option<&str>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for program in ["sh", "chmod", "sleep"] {
            let found = ["/usr/bin", "/bin"]
                .map(|folder| Path::new(folder).join(program))
                .into_iter()
                .find(|path| path.exists());
            symlink(found.unwrap(), bin.join(program)).unwrap();
        }
        if let Some(script) = go {
            fs::write(bin.join("go"), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(bin.join("go"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn tools(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(["control-plane", "tools"])
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("DEFIB_CACHE", self.path("cache"));
        command.env("BUILDS", self.path("builds")).env("GATE", self.path("gate"));
        command
    }

    /// The programs in the cache, below whatever key.
    fn built(&self) -> Vec<String> {
        let folder = fs::read_dir(self.path("cache/tools"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_dir());
        let mut names: Vec<String> = fs::read_dir(folder.unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn failure(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> {
    BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap)
}

#[test]
fn two_at_once_build_each_tool_once() {
    let script = format!(r#"[ "$1" = version ] && echo go version go1.99.0 && exit; echo "$@" >> "$BUILDS"; {BUILD}"#);
    let machine = Machine::new(Some(&script));
    let mut spawned = [(); 2].map(|()| machine.tools().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let [one, two] = &mut spawned;
    let (mut lines_one, mut lines_two) = (lines(one), lines(two));

    // One of them builds, the other says that it waits; which is which is theirs to decide.
    let first = lines_one.next().unwrap();
    let second = lines_two.next().unwrap();
    let waits = |line: &str| line.contains("another process builds these tools");
    let builds = |line: &str| line.contains("building etcd, kube-apiserver, kube-controller-manager, kubectl");
    assert!(
        (waits(&first) && builds(&second)) || (builds(&first) && waits(&second)),
        "{first}\n{second}"
    );

    fs::write(machine.path("gate"), "").unwrap();
    let said: Vec<String> = lines_one.chain(lines_two).collect();
    for mut child in spawned {
        let mut folder = String::new();
        child.stdout.take().unwrap().read_to_string(&mut folder).unwrap();
        assert!(child.wait().unwrap().success(), "{said:#?}");
        assert!(
            Path::new(folder.trim()).join("kube-apiserver").is_file(),
            "it prints the folder: {folder}"
        );
    }
    assert_eq!(
        machine.built(),
        ["etcd", "go", "kube-apiserver", "kube-controller-manager", "kubectl"]
    );
    let builds = fs::read_to_string(machine.path("builds")).unwrap();
    assert_eq!(builds.lines().count(), 4, "{builds}");
    let stamped = |line: &str| line.contains("version.gitVersion=v1.") && line.ends_with("k8s.io/kubernetes/cmd/kube-apiserver");
    assert!(builds.lines().any(stamped), "{builds}");
}

#[test]
fn a_build_that_fails_leaves_no_tool() {
    let machine = Machine::new(Some(
        r#"[ "$1" = version ] && echo go version go1.99.0 && exit; echo no space left on device >&2; exit 1"#,
    ));
    let error = failure(&machine.tools().output().unwrap());
    assert!(
        error.contains("`go build` of etcd failed") && error.contains("no space left on device"),
        "{error}"
    );
    assert_eq!(machine.built(), ["etcd.log", "go"]);
}

#[test]
fn without_go_the_error_says_where_to_get_it() {
    let error = failure(&Machine::new(None).tools().output().unwrap());
    for wanted in ["Go 1.", "https://go.dev/dl/", "setup-envtest"] {
        assert!(error.contains(wanted), "{wanted} is not in: {error}");
    }
}

#[test]
fn an_old_go_is_told_before_the_build() {
    let machine = Machine::new(Some(r#"[ "$1" = version ] && echo go version go1.19.8 linux/amd64"#));
    let error = failure(&machine.tools().output().unwrap());
    assert!(error.contains("go1.19.8") && error.contains("https://go.dev/dl/"), "{error}");
}
