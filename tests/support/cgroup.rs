//! A memory cgroup, which kills what takes more than a container would give it.

use std::fs;
use std::path::{Path, PathBuf};

use mongodb::bson::oid::ObjectId;

/// Gone when dropped, after what ran in it.
pub struct Cgroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// One of so many bytes; none where the machine lets nobody make one: that takes root, and a system of files
    /// that is not mounted read-only.
    pub fn new(bytes: u64) -> Option<Cgroup> {
        let name = format!("upgrade-gate-{}", ObjectId::new());
        [("/sys/fs/cgroup/memory", Version::One), ("/sys/fs/cgroup", Version::Two)]
            .into_iter()
            .find_map(|(parent, version)| {
                let folder = Path::new(parent).join(&name);
                fs::create_dir(&folder).ok()?;
                let cgroup = Cgroup { folder, version };
                fs::write(cgroup.folder.join(cgroup.limit()), bytes.to_string()).ok()?;
                // without it a program would swap instead of being killed
                let _ = match version {
                    Version::One => fs::write(cgroup.folder.join("memory.swappiness"), "0"),
                    Version::Two => fs::write(cgroup.folder.join("memory.swap.max"), "0"),
                };
                Some(cgroup)
            })
    }

    fn limit(&self) -> &'static str {
        match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        }
    }

    /// What a shell runs to be in it.
    pub fn enter(&self) -> String {
        format!("echo $$ >{}/cgroup.procs", self.folder.display())
    }

    /// The most that it held, the cache of files included; none where the system does not tell.
    pub fn peak(&self) -> Option<u64> {
        let name = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
