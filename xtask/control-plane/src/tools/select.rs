//! Which of several copies of a tool is used. Pure: what there is comes in, the choice and its reasons go out.
//!
//! The rules are those of Kubernetes' version skew policy, as far as they concern a control plane of one node:
//! kube-controller-manager must not be newer than kube-apiserver (here: of the same minor version, as it is tested), and
//! kubectl is supported within one minor version of it. An API server that finds no partner is not used. Old
//! copies, such as the kubectl that a cloud's command line installs, are passed over one by one and not all tools with them.

use super::{Source, Tool, Version};

/// Selectable fields of CRDs, which Defib uses, are on for good since this version.
pub(super) const OLDEST_KUBERNETES: (u32, u32) = (1, 32);
/// What kube-apiserver of that age asks of etcd: consistent reads from its watch cache need progress notifications (3.5.13).
pub(super) const OLDEST_ETCD: Version = Version {
    major: 3,
    minor: 5,
    patch: 13,
};

/// Every copy of each tool, best place first; the last of each is the pinned one, which always fits.
#[derive(Default)]
pub(super) struct Candidates {
    pub(super) etcd: Vec<Tool>,
    pub(super) kube_apiserver: Vec<Tool>,
    pub(super) kube_controller_manager: Vec<Tool>,
    pub(super) kubectl: Vec<Tool>,
}

pub(super) struct Selection {
    pub(super) etcd: Tool,
    pub(super) kube_apiserver: Tool,
    pub(super) kube_controller_manager: Tool,
    pub(super) kubectl: Tool,
    /// Why copies in better places are not used.
    pub(super) notes: Vec<String>,
}

/// `None` only when the candidates lack the pinned copies.
pub(super) fn select(candidates: Candidates) -> Option<Selection> {
    let mut notes = Vec::new();
    let etcd = first(&candidates.etcd, &mut notes, |tool| {
        if tool.version < OLDEST_ETCD {
            Err(format!("older than {OLDEST_ETCD}"))
        } else {
            Ok(())
        }
    })?;
    let manager_for = |api: &Tool| {
        candidates
            .kube_controller_manager
            .iter()
            .find(|manager| minor(manager) == minor(api))
    };
    let kube_apiserver = first(&candidates.kube_apiserver, &mut notes, |tool| {
        let (oldest_major, oldest_minor) = OLDEST_KUBERNETES;
        if minor(tool) < OLDEST_KUBERNETES {
            Err(format!("older than v{oldest_major}.{oldest_minor}"))
        } else if manager_for(tool).is_none() {
            let (major, minor) = minor(tool);
            Err(format!("there is no kube-controller-manager v{major}.{minor} to go with it"))
        } else {
            Ok(())
        }
    })?;
    let same_minor = |tool: &Tool| {
        if minor(tool) == minor(&kube_apiserver) {
            Ok(())
        } else {
            Err(format!("kube-apiserver is {}", kube_apiserver.version))
        }
    };
    let kube_controller_manager = first(&candidates.kube_controller_manager, &mut notes, same_minor)?;
    let kubectl = first(&candidates.kubectl, &mut notes, |tool| {
        let near = tool.version.major == kube_apiserver.version.major && tool.version.minor.abs_diff(kube_apiserver.version.minor) <= 1;
        if near {
            Ok(())
        } else {
            Err(format!(
                "more than one minor version from kube-apiserver {}",
                kube_apiserver.version
            ))
        }
    })?;
    Some(Selection {
        etcd,
        kube_apiserver,
        kube_controller_manager,
        kubectl,
        notes,
    })
}

fn minor(tool: &Tool) -> (u32, u32) {
    (tool.version.major, tool.version.minor)
}

/// The first copy that fits; the others before it are noted with the reason.
pub(super) fn first(copies: &[Tool], notes: &mut Vec<String>, fits: impl Fn(&Tool) -> Result<(), String>) -> Option<Tool> {
    copies
        .iter()
        .find(|tool| match fits(tool) {
            Ok(()) => true,
            Err(reason) => {
                // That a pinned tool is passed over is no news: the chosen one stands in a better place.
                if tool.source != Source::Built {
                    notes.push(format!("{} {} is not used: {reason}", tool.path.display(), tool.version));
                }
                false
            }
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use Source::{Assets, Built, Path};

    use super::*;

    fn tool(name: &str, source: Source, version: &str) -> Tool {
        let folder = match source {
            Assets => "/assets",
            Path => "/usr/bin",
            Built => "/cache",
        };
        Tool {
            path: PathBuf::from(folder).join(name),
            version: Version::find_in(version).unwrap(),
            source,
        }
    }

    /// The pinned copies behind what a machine has.
    fn with(found: &[(&str, Source, &str)]) -> Candidates {
        let copies = |name: &str, pinned: &str| {
            let found = found
                .iter()
                .filter(|(of, ..)| *of == name)
                .map(|(name, source, version)| tool(name, *source, version));
            found.chain([tool(name, Built, pinned)]).collect()
        };
        Candidates {
            etcd: copies("etcd", "3.7.3"),
            kube_apiserver: copies("kube-apiserver", "1.37.2"),
            kube_controller_manager: copies("kube-controller-manager", "1.37.2"),
            kubectl: copies("kubectl", "1.37.2"),
        }
    }

    fn sources(selection: &Selection) -> [Source; 4] {
        [
            &selection.etcd,
            &selection.kube_apiserver,
            &selection.kube_controller_manager,
            &selection.kubectl,
        ]
        .map(|tool| tool.source)
    }

    #[test]
    fn an_empty_machine_builds_all() {
        let selection = select(with(&[])).unwrap();
        assert_eq!(sources(&selection), [Built; 4]);
        assert!(selection.notes.is_empty(), "{:?}", selection.notes);
    }

    #[test]
    fn an_old_kubectl_alone_is_passed_over_and_said() {
        let selection = select(with(&[("kubectl", Path, "1.32.4")])).unwrap();
        assert_eq!(sources(&selection), [Built; 4]);
        assert_eq!(selection.notes.len(), 1, "{:?}", selection.notes);
        assert!(selection.notes[0].contains("/usr/bin/kubectl v1.32.4"), "{:?}", selection.notes);
    }

    #[test]
    fn a_near_kubectl_is_used_without_the_rest() {
        for near in ["1.36.0", "1.37.9", "1.38.0"] {
            let selection = select(with(&[("kubectl", Path, near)])).unwrap();
            assert_eq!(sources(&selection), [Built, Built, Built, Path], "{near}");
        }
        for far in ["1.35.9", "1.39.0", "2.37.0"] {
            assert_eq!(sources(&select(with(&[("kubectl", Path, far)])).unwrap()), [Built; 4], "{far}");
        }
    }

    /// What setup-envtest installs: no kube-controller-manager.
    #[test]
    fn envtest_of_the_pinned_minor_needs_only_the_controller_manager() {
        let envtest = [
            ("etcd", Assets, "3.6.4"),
            ("kube-apiserver", Assets, "1.37.0"),
            ("kubectl", Assets, "1.37.0"),
        ];
        assert_eq!(sources(&select(with(&envtest)).unwrap()), [Assets, Assets, Built, Assets]);
    }

    #[test]
    fn envtest_of_another_minor_lacks_its_controller_manager_and_says_so() {
        let envtest = [
            ("etcd", Assets, "3.6.4"),
            ("kube-apiserver", Assets, "1.36.1"),
            ("kubectl", Assets, "1.36.1"),
        ];
        let selection = select(with(&envtest)).unwrap();
        assert_eq!(sources(&selection), [Assets, Built, Built, Assets]);
        assert!(
            selection.notes.iter().any(|note| note.contains("no kube-controller-manager v1.36")),
            "{:?}",
            selection.notes
        );
    }

    #[test]
    fn a_complete_older_set_is_used_whole() {
        let installed = [
            ("etcd", Path, "3.5.21"),
            ("kube-apiserver", Path, "1.34.1"),
            ("kube-controller-manager", Path, "1.34.1"),
            ("kubectl", Path, "1.34.1"),
        ];
        assert_eq!(sources(&select(with(&installed)).unwrap()), [Path; 4]);
    }

    #[test]
    fn too_old_servers_are_not_used() {
        let installed = [
            ("etcd", Path, "3.4.23"),
            ("kube-apiserver", Path, "1.31.9"),
            ("kube-controller-manager", Path, "1.31.9"),
        ];
        let selection = select(with(&installed)).unwrap();
        assert_eq!(sources(&selection), [Built; 4]);
        assert_eq!(selection.notes.len(), 3, "{:?}", selection.notes);
    }

    #[test]
    fn the_better_place_wins() {
        let both = [("etcd", Assets, "3.6.0"), ("etcd", Path, "3.7.3")];
        assert_eq!(select(with(&both)).unwrap().etcd.source, Assets);
    }
}
