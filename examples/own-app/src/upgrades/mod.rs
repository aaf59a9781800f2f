//! The table of upgrades: one file each, in the order of their versions.

mod v1_4_0_titles;

use upgrade_gate::Upgrade;

pub fn all() -> [Upgrade; 1] {
    [v1_4_0_titles::upgrade()]
}
