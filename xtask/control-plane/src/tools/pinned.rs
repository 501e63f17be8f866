//! The tools that this crate can build: their Go modules, as pinned by the go.mod files beside it.

use std::env::consts;
use std::path::{Path, PathBuf};

use ring::digest;

use super::Version;

/// A Go module that tools are built from.
pub(super) struct Module {
    /// The folder of its go.mod, which also names it to people.
    pub(super) name: &'static str,
    /// Its path in the `require` of the go.mod.
    path: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
    /// The linker's `-X` settings that tell a tool its version, for a version `{v}` with `{major}` and `{minor}`.
    /// Without them Kubernetes reports a version that kubectl and Helm cannot parse, and both stop.
    stamps: &'static [&'static str],
}

static KUBERNETES: Module = Module {
    name: "kubernetes",
    path: "k8s.io/kubernetes",
    go_mod: include_str!("../../kubernetes/go.mod"),
    go_sum: include_str!("../../kubernetes/go.sum"),
    stamps: &[
        "k8s.io/component-base/version.gitVersion={v}",
        "k8s.io/component-base/version.gitMajor={major}",
        "k8s.io/component-base/version.gitMinor={minor}",
        "k8s.io/client-go/pkg/version.gitVersion={v}",
    ],
};

static ETCD: Module = Module {
    name: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    go_mod: include_str!("../../etcd/go.mod"),
    go_sum: include_str!("../../etcd/go.sum"),
    stamps: &[],
};

static HELM: Module = Module {
    name: "helm",
    path: "helm.sh/helm/v4",
    go_mod: include_str!("../../helm/go.mod"),
    go_sum: include_str!("../../helm/go.sum"),
    stamps: &["helm.sh/helm/v4/internal/version.version={v}"],
};

/// One program to build.
pub(super) struct Pinned {
    /// The file name of the program.
    pub(super) name: &'static str,
    /// The Go package of its `main`.
    pub(super) package: &'static str,
    pub(super) module: &'static Module,
}

pub(super) static ETCD_SERVER: Pinned = Pinned {
    name: "etcd",
    package: "go.etcd.io/etcd/server/v3",
    module: &ETCD,
};
pub(super) static KUBE_APISERVER: Pinned = Pinned {
    name: "kube-apiserver",
    package: "k8s.io/kubernetes/cmd/kube-apiserver",
    module: &KUBERNETES,
};
pub(super) static KUBE_CONTROLLER_MANAGER: Pinned = Pinned {
    name: "kube-controller-manager",
    package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    module: &KUBERNETES,
};
pub(super) static KUBECTL: Pinned = Pinned {
    name: "kubectl",
    package: "k8s.io/kubernetes/cmd/kubectl",
    module: &KUBERNETES,
};
pub(super) static HELM_CLI: Pinned = Pinned {
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    module: &HELM,
};

impl Module {
    /// The version that the go.mod requires; 0.0.0 if it does not say (a test sees to it that it does).
    pub(super) fn version(&self) -> Version {
        let required = self.go_mod.lines().find_map(|line| {
            let line = line.trim().trim_start_matches("require ");
            line.strip_prefix(self.path)?.strip_prefix(' ')
        });
        required.and_then(Version::find_in).unwrap_or(Version {
            major: 0,
            minor: 0,
            patch: 0,
        })
    }

    /// The Go version that the go.mod asks for, as it says it.
    pub(super) fn go_version(&self) -> &'static str {
        self.go_mod
            .lines()
            .find_map(|line| line.strip_prefix("go "))
            .unwrap_or_default()
            .trim()
    }

    pub(super) fn ldflags(&self) -> String {
        let version = self.version();
        let mut flags = String::from("-s -w");
        for stamp in self.stamps {
            let setting = stamp
                .replace("{v}", &version.to_string())
                .replace("{major}", &version.major.to_string())
                .replace("{minor}", &version.minor.to_string());
            flags.push_str(" -X ");
            flags.push_str(&setting);
        }
        flags
    }
}

/// Flags of every `go build`. No cgo: no C compiler is needed and the programs run on any distribution.
pub(super) const BUILD_FLAGS: [&str; 2] = ["-trimpath", "-buildvcs=false"];

/// The folder in the cache that holds what is built of these tools, keyed by everything that goes into the build:
/// a changed go.mod builds anew, and two checkouts of different ages do not fight over one folder.
pub(super) fn folder(cache: &Path, title: &str, tools: &[&Pinned]) -> PathBuf {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut add = |text: &str| {
        hash.update(&text.len().to_le_bytes());
        hash.update(text.as_bytes());
    };
    for tool in tools {
        for text in [
            tool.name,
            tool.package,
            tool.module.go_mod,
            tool.module.go_sum,
            &tool.module.ldflags(),
        ] {
            add(text);
        }
    }
    for text in BUILD_FLAGS.into_iter().chain([consts::OS, consts::ARCH]) {
        add(text);
    }
    let key: String = hash.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    cache.join("tools").join(format!("{title}-{key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&Pinned; 5] = [&ETCD_SERVER, &KUBE_APISERVER, &KUBE_CONTROLLER_MANAGER, &KUBECTL, &HELM_CLI];

    #[test]
    fn every_tool_is_declared_and_pinned_by_its_go_mod() {
        for tool in ALL {
            let module = tool.module;
            assert!(
                module.version()
                    > Version {
                        major: 0,
                        minor: 0,
                        patch: 0
                    },
                "{} has no version",
                module.name
            );
            assert!(
                module
                    .go_mod
                    .lines()
                    .any(|line| line.trim().trim_start_matches("tool ") == tool.package),
                "{} is no tool",
                tool.name
            );
            assert!(
                Version::find_in(module.go_version()).is_some(),
                "{}: go {:?}",
                module.name,
                module.go_version()
            );
        }
    }

    #[test]
    fn staging_modules_are_of_the_same_release() {
        let version = KUBERNETES.version();
        let staging = format!("v0.{}.{}", version.minor, version.patch);
        let replaced: Vec<&str> = KUBERNETES.go_mod.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 20, "{}", replaced.len());
        for line in replaced {
            assert!(line.ends_with(&staging), "{line} is not of {staging}");
        }
    }

    #[test]
    fn the_version_is_stamped() {
        let flags = KUBERNETES.ldflags();
        let version = KUBERNETES.version();
        assert!(flags.contains(&format!("component-base/version.gitVersion={version}")), "{flags}");
        assert!(flags.contains(&format!("gitMinor={} ", version.minor)), "{flags}");
    }

    #[test]
    fn what_goes_into_the_build_names_the_folder() {
        let cache = Path::new("/cache");
        let one = folder(cache, "x", &[&ETCD_SERVER]);
        assert_eq!(one, folder(cache, "x", &[&ETCD_SERVER]));
        static CHANGED: Module = Module {
            name: "etcd",
            path: "go.etcd.io/etcd/server/v3",
            go_mod: "changed",
            go_sum: "",
            stamps: &[],
        };
        let other = Pinned {
            name: ETCD_SERVER.name,
            package: ETCD_SERVER.package,
            module: &CHANGED,
        };
        assert_ne!(one, folder(cache, "x", &[&other]));
        assert!(one.starts_with("/cache/tools"));
    }
}
