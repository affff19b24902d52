//! Unpacks Debian packages below a folder of ours, without root, leaving the machine untouched.
//!
//! apt runs with its own state, cache and an empty package database, so that it resolves the whole
//! closure, libc included; programs then run through the loader of the unpacked tree (`tree.rs`). Where the
//! packages come from, and which keys sign them, is what the machine's own apt says; only the
//! backports suite is added. apt checks every signature and hash.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{progress, run};

/// Suites of the distribution itself, as suffixes of its code name.
const SUITES: [&str; 3] = ["", "-updates", "-security"];

/// Depends on the newest kernel image of its suite.
const KERNEL: &str = "linux-image-amd64";

/// What to unpack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Packages, each with all that it depends on.
    pub(super) packages: Vec<String>,
    /// The newest kernel image, and nothing that it depends on.
    pub(super) kernel: bool,
    /// Packages without what they depend on.
    #[serde(default)]
    pub(super) alone: Vec<String>,
    /// Part of a source package, into the folder [`SOURCE`].
    #[serde(default)]
    pub(super) source: Option<Source>,
}

/// A part of the upstream archive of a source package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    pub(super) name: String,
    /// As Debian counts it, revision included.
    pub(super) version: String,
    /// Patterns of paths below the archive's only folder, as tar reads them.
    pub(super) parts: Vec<String>,
}

/// Where the source is in the tree.
pub(super) const SOURCE: &str = "source";

/// What a finished tree was made from.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    recipe: u32,
    wanted: Wanted,
    packages: Vec<Package>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Package {
    name: String,
    version: String,
}

/// Unpacks what is wanted into the folder `tree`, unless that has been done.
pub(super) fn unpack(tree: &Path, wanted: Wanted, recipe: u32) -> Result<()> {
    if is_finished(tree, &wanted, recipe) {
        return Ok(());
    }
    progress("unpacking what is missing below the target folder (once)");
    let fresh = tree.with_extension("new");
    remove(&fresh)?;
    let apt = Apt::prepare(&tree.with_extension("apt"), wanted.source.is_some())?;
    let packages = apt.unpack_all(&wanted, &fresh)?;
    let manifest = Manifest {
        recipe,
        wanted,
        packages,
    };
    fs::write(
        fresh.join("manifest.json"),
        serde_json::to_string_pretty(&manifest)?,
    )?;
    remove(tree)?;
    fs::rename(&fresh, tree)?;
    remove(&apt.folder)?;
    progress("done");
    Ok(())
}

fn is_finished(tree: &Path, wanted: &Wanted, recipe: u32) -> bool {
    let text = fs::read_to_string(tree.join("manifest.json")).unwrap_or_default();
    serde_json::from_str::<Manifest>(&text)
        .is_ok_and(|manifest| manifest.recipe == recipe && manifest.wanted == *wanted)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// apt with a state of its own.
struct Apt {
    folder: PathBuf,
    /// The suite to prefer.
    suite: String,
}

impl Apt {
    fn prepare(folder: &Path, with_source: bool) -> Result<Self> {
        for subfolder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(subfolder))?;
        }
        fs::write(folder.join("status"), "")?;
        fs::write(folder.join("apt.conf"), configuration(folder))?;
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let code_name = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("/etc/os-release has no VERSION_CODENAME: not a Debian release")?;
        let targets = run(Command::new("apt-get")
            .args(["indextargets", "--format"])
            .arg("$(RELEASE) $(COMPONENT) $(REPO_URI) $(SOURCESENTRY)")
            .arg("Created-By: Packages"))
        .context("asking apt for the machine's package sources")?;
        let sources = sources(&targets, code_name, |file| {
            fs::read_to_string(file).unwrap_or_default()
        })?;
        let source = with_source.then(|| sources.replace("deb [", "deb-src ["));
        let sources = [sources, source.unwrap_or_default()].concat();
        fs::write(folder.join("sources.list"), sources)?;
        let apt = Self {
            folder: folder.to_owned(),
            suite: format!("{code_name}-backports"),
        };
        progress("reading package lists");
        run(apt.command("apt-get").arg("update")).context("apt-get update")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.join("apt.conf"));
        command.args(["-t", &self.suite]);
        // Not the messages of the user's language: some of them are read below.
        command.env("LC_ALL", "C");
        command
    }

    fn unpack_all(&self, wanted: &Wanted, tree: &Path) -> Result<Vec<Package>> {
        let mut packages = Vec::new();
        for name in &wanted.packages {
            packages.extend(self.closure(name)?);
            progress(&format!("fetching {name} and what it depends on"));
            let download = ["install", "--yes", "--download-only", name];
            run(self.command("apt-get").args(download))?;
        }
        if wanted.kernel {
            // Only the image: what it depends on is for installing it.
            let kernel = self.closure(KERNEL)?;
            let image = kernel
                .into_iter()
                .find(|package| package.name.starts_with("linux-image-") && package.name != KERNEL)
                .context("linux-image-amd64 depends on no kernel image")?;
            progress(&format!(
                "fetching {} {} (about 100 MB)",
                image.name, image.version
            ));
            self.download(&format!("{}={}", image.name, image.version))?;
            packages.push(image);
        }
        for name in &wanted.alone {
            self.download(name)?;
        }
        progress("unpacking");
        fs::create_dir_all(tree)?;
        if let Some(source) = &wanted.source {
            self.unpack_source(source, &tree.join(SOURCE))?;
        }
        for entry in fs::read_dir(self.folder.join("archives"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(path).arg(tree))?;
            }
        }
        packages.sort_by(|one, other| one.name.cmp(&other.name));
        packages.dedup();
        Ok(packages)
    }

    /// One package and nothing that it depends on.
    fn download(&self, package: &str) -> Result<()> {
        let mut command = self.command("apt-get");
        command.current_dir(self.folder.join("archives"));
        run(command.args(["download", package]))?;
        Ok(())
    }

    /// Only the upstream archive is fetched: a mirror may have dropped the packaging of a revision
    /// that is not the newest, but apt knows the archive's hash from the package lists.
    fn unpack_source(&self, source: &Source, folder: &Path) -> Result<()> {
        let Source {
            name,
            version,
            parts,
        } = source;
        progress(&format!("fetching the source of {name} {version}"));
        let scratch = self.folder.join("source");
        for folder in [folder, &scratch] {
            fs::create_dir_all(folder)?;
        }
        run(self
            .command("apt-get")
            .current_dir(&scratch)
            .args(["source", "--tar-only", "--download-only"])
            .arg(format!("{name}={version}")))
        .with_context(|| format!("the mirror does not have the source of {name} {version}"))?;
        let archive = fs::read_dir(&scratch)?
            .next()
            .with_context(|| format!("apt fetched no archive of {name} {version}"))??;
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(archive.path()).arg("-C").arg(folder);
        tar.args(["--strip-components=1", "--anchored", "--wildcards"]);
        tar.arg("--no-wildcards-match-slash");
        run(tar.args(parts.iter().map(|part| format!("*/{part}"))))?;
        Ok(())
    }

    /// The packages that installing `name` on an empty machine would bring.
    fn closure(&self, name: &str) -> Result<Vec<Package>> {
        let text = run(self
            .command("apt-get")
            .args(["install", "--simulate", name]))?;
        Ok(installed(&text))
    }
}

/// Reads the lines `Inst NAME (VERSION SOURCE [ARCHITECTURE])` of a simulated installation.
fn installed(simulation: &str) -> Vec<Package> {
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let (version, _) = rest.split_once(' ')?;
        Some(Package {
            name: name.to_owned(),
            version: version.to_owned(),
        })
    };
    simulation.lines().filter_map(package).collect()
}

/// apt's configuration. It is read after the machine's own, so that proxies and the like stay.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "// Hooks of the machine's configuration would touch the machine.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb;
#clear Acquire::IndexTargets::deb-src;
Acquire::IndexTargets::deb::Packages {{
    MetaKey \"$(COMPONENT)/binary-$(ARCHITECTURE)/Packages\";
    ShortDescription \"Packages\";
    Description \"$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages\";
}};
Acquire::IndexTargets::deb-src::Sources {{
    MetaKey \"$(COMPONENT)/source/Sources\";
    ShortDescription \"Sources\";
    Description \"$(RELEASE)/$(COMPONENT) Sources\";
}};
Dir::State \"{folder}\";
Dir::State::lists \"{folder}/lists\";
Dir::State::status \"{folder}/status\";
Dir::Cache \"{folder}\";
Dir::Cache::archives \"{folder}/archives\";
Dir::Etc::sourcelist \"{folder}/sources.list\";
Dir::Etc::sourceparts \"/dev/null\";
Dir::Etc::preferences \"/dev/null\";
Dir::Etc::preferencesparts \"/dev/null\";
APT::Architecture \"amd64\";
APT::Architectures {{ \"amd64\"; }};
APT::Install-Recommends \"false\";
APT::Sandbox::User \"\";
APT::Update::Error-Mode \"any\";
Acquire::Languages \"none\";
Acquire::Retries \"3\";
Acquire::http::Timeout \"60\";
Acquire::https::Timeout \"60\";
"
    )
}

/// Our source list: the machine's sources of its own release, and backports from the same place.
///
/// `targets` has lines of release, component, address and `FILE:ENTRY`; `read` reads such a file.
fn sources(targets: &str, code_name: &str, read: impl Fn(&str) -> String) -> Result<String> {
    let mut list = Vec::new();
    let mut backports = String::new();
    for line in targets.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [release, "main", address, entry] = words.as_slice() else {
            continue;
        };
        let suffix = release.strip_prefix(code_name);
        if !suffix.is_some_and(|suffix| SUITES.contains(&suffix)) {
            continue;
        }
        let file = entry.rsplit_once(':').map_or(*entry, |(file, _)| file);
        let options = match signed_by(&read(file)) {
            Some(keys) => format!("[arch=amd64 signed-by={keys}]"),
            None => "[arch=amd64]".to_owned(),
        };
        list.push(format!("deb {options} {address} {release} main\n"));
        if suffix == Some("") && backports.is_empty() {
            backports = format!("deb {options} {address} {code_name}-backports main\n");
        }
    }
    if backports.is_empty() {
        bail!("the machine's apt has no source for the main component of {code_name}");
    }
    list.push(backports);
    Ok(list.concat())
}

/// The key file that a source file names, in either of apt's two formats.
fn signed_by(source: &str) -> Option<String> {
    let lower = source.to_ascii_lowercase();
    let (position, length) = ["signed-by:", "signed-by="]
        .iter()
        .find_map(|name| Some((lower.find(name)?, name.len())))?;
    let rest = source
        .get(position + length..)?
        .lines()
        .next()?
        .trim_start();
    let path = rest.split([' ', ',', ']']).next()?;
    path.starts_with('/').then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "bookworm main http://mirror/debian/ /etc/apt/a.sources:1
bookworm contrib http://mirror/debian/ /etc/apt/a.sources:1
bookworm-security main http://mirror/security/ /etc/apt/a.sources:2
bookworm-tools main http://elsewhere/ /etc/apt/b.list:1
nodistro main http://elsewhere/ /etc/apt/b.list:2
";

    #[test]
    fn sources_are_the_distributions_own_and_backports() {
        let read = |_: &str| "Types: deb\nSigned-By: /keys/a.gpg\n".to_owned();
        assert_eq!(
            sources(TARGETS, "bookworm", read).unwrap(),
            "deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror/debian/ bookworm main
deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror/security/ bookworm-security main
deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror/debian/ bookworm-backports main
"
        );
        assert!(sources(TARGETS, "trixie", |_| String::new()).is_err());
    }

    #[test]
    fn key_files_are_found_in_both_formats() {
        let line = "deb [arch=amd64 signed-by=/keys/b.gpg] http://mirror/debian bookworm main";
        assert_eq!(signed_by(line).as_deref(), Some("/keys/b.gpg"));
        let stanza = "Types: deb\nsigned-by:  /keys/c.gpg\n";
        assert_eq!(signed_by(stanza).as_deref(), Some("/keys/c.gpg"));
        let inline = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(signed_by(inline), None);
        assert_eq!(signed_by("deb http://mirror/debian bookworm main"), None);
    }

    #[test]
    fn simulated_installations_are_read() {
        let text = "NOTE: only a simulation\nInst libc6 (2.36-9 Debian:12/stable [amd64])\n\
                    Inst tzdata (2025 Debian:12 [all]) [libc6:amd64 ]\nConf libc6 (2.36-9)\n";
        let names: Vec<String> = installed(text)
            .into_iter()
            .map(|package| format!("{}={}", package.name, package.version))
            .collect();
        assert_eq!(names, ["libc6=2.36-9", "tzdata=2025"]);
    }
}
