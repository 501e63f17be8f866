//! The programs a control plane consists of: found on this machine, or built with Go.
//!
//! Each tool is looked for in the folder that the environment variable `KUBEBUILDER_ASSETS` names, then on `PATH`, then among
//! what was built before (in [`cache_folder`]`/tools`, keyed by the go.mod and go.sum files beside this crate
//! and the flags of the linker). The first copy whose version fits is taken; which fit together is told in `select.rs`.
//! What is not used, and why, is in [`Tools::notes`]. Folders of older keys are not deleted, and may be at any time.

mod build;
mod pinned;
mod select;
mod version;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pinned::{ETCD_SERVER, HELM_CLI, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBECTL, Pinned};
use select::{Candidates, Selection};
pub use version::Version;

use crate::command::output_within;
use crate::{Error, cache_folder};

/// Said wherever somebody is about to wait for a build, or cannot build.
pub(crate) const ENVTEST_HINT: &str = "\nWhere downloads are allowed, this saves the build of etcd, kube-apiserver and kubectl:\n  \
     export KUBEBUILDER_ASSETS=$(go run sigs.k8s.io/controller-runtime/tools/setup-envtest@latest use -p path)\n\
     (kube-controller-manager is not part of it: put the same version beside them, or on PATH, or let it be built.)";

const BUILD_COMMAND: &str = "cargo xtask control-plane tools";
const BUILD_HELM_COMMAND: &str = "cargo xtask control-plane tools --helm";

/// A tool that prints its version does so within this time, even on a busy machine.
const VERSION_PATIENCE: Duration = Duration::from_secs(20);

/// Where a tool was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// In the folder that `KUBEBUILDER_ASSETS` names.
    Assets,
    /// On `PATH`.
    Path,
    /// In the cache, built from the pinned Go module.
    Built,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tool {
    /// Its absolute path.
    pub path: PathBuf,
    /// The version that it reports, or that it was built from.
    pub version: Version,
    /// Where it was found.
    pub source: Source,
}

/// The programs a control plane consists of; they fit together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tools {
    /// etcd.
    pub etcd: Tool,
    /// kube-apiserver.
    pub kube_apiserver: Tool,
    /// kube-controller-manager, of the API server's minor version.
    pub kube_controller_manager: Tool,
    /// kubectl, at most one minor version from the API server's.
    pub kubectl: Tool,
    /// Why copies in better places (`KUBEBUILDER_ASSETS`, `PATH`) are not used. For people; often empty.
    pub notes: Vec<String>,
}

impl Tools {
    /// The four tools with their names.
    pub fn all(&self) -> [(&'static str, &Tool); 4] {
        [
            (ETCD_SERVER.name, &self.etcd),
            (KUBE_APISERVER.name, &self.kube_apiserver),
            (KUBE_CONTROLLER_MANAGER.name, &self.kube_controller_manager),
            (KUBECTL.name, &self.kubectl),
        ]
    }

    /// The folders the tools lie in, without repetition: one, unless they come from several places.
    pub fn folders(&self) -> Vec<&Path> {
        let mut folders = Vec::new();
        for folder in self.all().into_iter().filter_map(|(_, tool)| tool.path.parent()) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }
}

/// The tools, without building any.
///
/// # Errors
/// [`Error::ToolsMissing`], which names the command that builds them.
pub fn find() -> Result<Tools, Error> {
    let choice = choose(&Places::of_this_process()?)?;
    if choice.missing.is_empty() {
        return Ok(choice.tools);
    }
    Err(Error::ToolsMissing {
        missing: choice.missing.iter().map(|tool| tool.name.to_owned()).collect(),
        command: BUILD_COMMAND,
        notes: choice.tools.notes,
    })
}

/// The tools; what is missing is built with Go, which takes about 10 minutes on two cores, once. Progress goes to stderr.
///
/// # Errors
/// When Go is missing or too old, or a build fails.
pub fn ensure() -> Result<Tools, Error> {
    let places = Places::of_this_process()?;
    let choice = choose(&places)?;
    build::build(&places.built, &choice.missing)?;
    Ok(choice.tools)
}

/// Helm (of the major version that the charts are tested with), without building it: from `PATH`, or built before.
///
/// # Errors
/// [`Error::ToolsMissing`], which names the command that builds it.
pub fn find_helm() -> Result<Tool, Error> {
    let (helm, missing, _) = choose_helm()?;
    if missing.is_empty() {
        return Ok(helm);
    }
    Err(Error::ToolsMissing {
        missing: vec![HELM_CLI.name.to_owned()],
        command: BUILD_HELM_COMMAND,
        notes: Vec::new(),
    })
}

/// Helm, from `PATH` or built with Go (about two minutes on two cores, once).
///
/// # Errors
/// When Go is missing or too old, or the build fails.
pub fn helm() -> Result<Tool, Error> {
    let (helm, missing, folder) = choose_helm()?;
    build::build(&folder, &missing)?;
    Ok(helm)
}

fn choose_helm() -> Result<(Tool, Vec<&'static Pinned>, PathBuf), Error> {
    let folder = pinned::folder(&cache_folder()?, "helm", &[&HELM_CLI]);
    let places = Places {
        assets: None,
        path: path_folders(),
        built: folder,
    };
    let wanted = HELM_CLI.module.version();
    let copies = places.copies(&HELM_CLI, &["version", "--template", "{{.Version}}"], &mut Vec::new());
    let fits = |tool: &Tool| {
        if tool.version.major == wanted.major {
            Ok(())
        } else {
            Err(String::new())
        }
    };
    let helm = select::first(&copies, &mut Vec::new(), fits).unwrap_or_else(|| places.pinned(&HELM_CLI));
    let missing = if places.is_missing(&HELM_CLI, &helm) {
        vec![&HELM_CLI]
    } else {
        Vec::new()
    };
    Ok((helm, missing, places.built))
}

struct Choice {
    tools: Tools,
    /// Chosen, but not built yet.
    missing: Vec<&'static Pinned>,
}

fn choose(places: &Places) -> Result<Choice, Error> {
    let mut notes = Vec::new();
    let candidates = Candidates {
        etcd: places.copies(&ETCD_SERVER, &["--version"], &mut notes),
        kube_apiserver: places.copies(&KUBE_APISERVER, &["--version"], &mut notes),
        kube_controller_manager: places.copies(&KUBE_CONTROLLER_MANAGER, &["--version"], &mut notes),
        kubectl: places.copies(&KUBECTL, &["version", "--client"], &mut notes),
    };
    let selection = select::select(candidates).unwrap_or_else(|| Selection {
        etcd: places.pinned(&ETCD_SERVER),
        kube_apiserver: places.pinned(&KUBE_APISERVER),
        kube_controller_manager: places.pinned(&KUBE_CONTROLLER_MANAGER),
        kubectl: places.pinned(&KUBECTL),
        notes: Vec::new(),
    });
    notes.extend(selection.notes);
    let Selection {
        etcd,
        kube_apiserver,
        kube_controller_manager,
        kubectl,
        ..
    } = selection;
    let tools = Tools {
        etcd,
        kube_apiserver,
        kube_controller_manager,
        kubectl,
        notes,
    };
    let chosen = [
        (&ETCD_SERVER, &tools.etcd),
        (&KUBE_APISERVER, &tools.kube_apiserver),
        (&KUBE_CONTROLLER_MANAGER, &tools.kube_controller_manager),
        (&KUBECTL, &tools.kubectl),
    ];
    let missing = chosen
        .into_iter()
        .filter(|(pinned, tool)| places.is_missing(pinned, tool))
        .map(|(pinned, _)| pinned)
        .collect();
    Ok(Choice { tools, missing })
}

/// Where tools are looked for.
struct Places {
    assets: Option<PathBuf>,
    path: Vec<PathBuf>,
    built: PathBuf,
}

impl Places {
    fn of_this_process() -> Result<Self, Error> {
        Ok(Self {
            assets: env::var_os("KUBEBUILDER_ASSETS")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from),
            path: path_folders(),
            built: pinned::folder(
                &cache_folder()?,
                "control-plane",
                &[&ETCD_SERVER, &KUBE_APISERVER, &KUBE_CONTROLLER_MANAGER, &KUBECTL],
            ),
        })
    }

    /// Every copy of a tool, best place first; the pinned one is the last, be it built already or not.
    fn copies(&self, pinned: &Pinned, version_args: &[&str], notes: &mut Vec<String>) -> Vec<Tool> {
        let assets = self.assets.iter().map(|folder| (folder.join(pinned.name), Source::Assets));
        // Of several copies on PATH, the first is the one that a shell would run.
        let path = self
            .path
            .iter()
            .map(|folder| folder.join(pinned.name))
            .find(|file| is_executable(file))
            .map(|file| (file, Source::Path));
        let found = assets.filter(|(file, _)| is_executable(file)).chain(path);
        let mut copies: Vec<Tool> = found
            .filter_map(|(file, source)| {
                let path = std::path::absolute(&file).unwrap_or(file);
                match version_of(&path, version_args) {
                    Ok(version) => Some(Tool { path, version, source }),
                    Err(reason) => {
                        notes.push(format!("{} is not used: {reason}", path.display()));
                        None
                    }
                }
            })
            .collect();
        copies.push(self.pinned(pinned));
        copies
    }

    fn pinned(&self, pinned: &Pinned) -> Tool {
        Tool {
            path: self.built.join(pinned.name),
            version: pinned.module.version(),
            source: Source::Built,
        }
    }

    fn is_missing(&self, pinned: &Pinned, chosen: &Tool) -> bool {
        chosen.source == Source::Built && !is_executable(&self.built.join(pinned.name))
    }
}

fn path_folders() -> Vec<PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).filter(|folder| folder.is_absolute()).collect())
        .unwrap_or_default()
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn version_of(program: &Path, args: &[&str]) -> Result<Version, String> {
    let said = output_within(Command::new(program).args(args), VERSION_PATIENCE)?;
    Version::find_in(&said).ok_or_else(|| format!("no version in what it prints: {:?}", said.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, name: &str, says: &str) {
        fs::create_dir_all(folder).unwrap();
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{says}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn names(choice: &Choice) -> Vec<&str> {
        choice.missing.iter().map(|tool| tool.name).collect()
    }

    #[test]
    fn tools_are_found_in_assets_then_path_then_cache() {
        let machine = tempfile::tempdir().unwrap();
        let at = |name: &str| machine.path().join(name);
        let places = Places {
            assets: Some(at("assets")),
            path: vec![at("empty"), at("bin")],
            built: at("built"),
        };

        let nothing = choose(&places).unwrap();
        assert_eq!(names(&nothing), ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"]);

        script(&at("bin"), "etcd", "echo 'etcd Version: 3.6.1'");
        script(&at("bin"), "kubectl", "echo 'Client Version: v1.2.3'");
        script(&at("built"), "kube-apiserver", "exit 1");
        let some = choose(&places).unwrap();
        assert_eq!(names(&some), ["kube-controller-manager", "kubectl"]);
        assert_eq!(some.tools.etcd.path, at("bin").join("etcd"));
        assert_eq!(some.tools.notes.len(), 1, "the old kubectl is explained: {:?}", some.tools.notes);

        script(&at("assets"), "etcd", "echo 'etcd Version: 3.6.2'");
        assert_eq!(choose(&places).unwrap().tools.etcd.path, at("assets").join("etcd"));
    }

    #[test]
    fn a_copy_that_does_not_run_is_passed_over_and_said() {
        let machine = tempfile::tempdir().unwrap();
        script(&machine.path().join("bin"), "etcd", "echo cannot execute >&2; exit 126");
        let places = Places {
            assets: None,
            path: vec![machine.path().join("bin")],
            built: machine.path().join("built"),
        };
        let choice = choose(&places).unwrap();
        assert_eq!(choice.tools.etcd.source, Source::Built);
        assert!(choice.tools.notes[0].contains("cannot execute"), "{:?}", choice.tools.notes);
    }

    #[test]
    fn the_error_names_the_way_out() {
        let error = Error::ToolsMissing {
            missing: vec!["etcd".into(), "kubectl".into()],
            command: BUILD_COMMAND,
            notes: vec!["x is not used: y".into()],
        };
        let text = error.to_string();
        for wanted in [
            "etcd, kubectl",
            BUILD_COMMAND,
            "setup-envtest",
            "KUBEBUILDER_ASSETS",
            "x is not used: y",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in: {text}");
        }
    }
}
