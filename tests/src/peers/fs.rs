//! Shares: virtiofsd and ours. The guest appends to a file that it holds open, and has others that must stay as they are.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Device;
use super::participant::{Machine, Participant, RESOURCE, SOCKET, ours, plain};
use super::special::{OnHost, Special};
use super::stage::{GUEST_DEADLINE, Guest};
use crate::tools::virtiofsd;

const START: &str = "
mount -t virtiofs share /mnt
mkdir /mnt/steady
for number in $(seq 20); do head -c 30000 /dev/urandom >/mnt/steady/$number; done
md5sum /mnt/steady/* >/tmp/sums
echo 0 >/tmp/written
(
    exec 5>>/mnt/appended 2>/tmp/fault
    number=0
    while :; do
        number=$((number + 1))
        echo $number >&5 || exit 1
        echo $number >/tmp/written.new && mv /tmp/written.new /tmp/written
        usleep 20000
    done
) </dev/null >/dev/null & writer=$!
";

/// The next mount is a session of its own.
const STOP: &str = "[ -z \"$writer\" ] || kill $writer; wait; writer=; exec 5>&- 6>&-; umount /mnt";

/// Reads everything from the share, and waits until the file has grown.
const LOOK: &str = "(
sync; echo 3 >/proc/sys/vm/drop_caches
enough=$(($(cat /tmp/written) + 5))
until [ $(cat /tmp/written) -ge $enough ]; do
    kill -0 $writer 2>/dev/null || { cat /tmp/fault; exit 1; }
    usleep 20000
done
md5sum -c /tmp/sums >/tmp/sums.found 2>&1 || { cat /tmp/sums.found; exit 1; }
awk -v enough=$enough '
    NR != $1 && !fault { fault = \"line \" NR \" of the file is \" $0 }
    END { if (!fault && NR < enough) fault = NR \" lines instead of \" enough; if (fault) { print fault; exit 1 } }
' /mnt/appended
)";

/// What the guest needs again may be in its kernel's cache: that is emptied first.
macro_rules! afterwards {
    ($script:literal) => {
        concat!("sync; echo 3 >/proc/sys/vm/drop_caches; ", $script)
    };
}

/// virtiofsd finds files by their names: a state without this one is refused.
pub const NAMELESS: Special = Special {
    title: "an open file without a name",
    options: &[],
    before: "mount -t virtiofs share /mnt; exec 5<>/mnt/file; echo kept >&5; sync; exec 6</mnt/file; rm /mnt/file",
    on_host: OnHost::Nothing,
    after: afterwards!("cat <&6"),
    expected: "kept",
};

/// virtiofsd forgets how long the guest's requests are.
pub const ATTRIBUTE: Special = Special {
    title: "an attribute set before and after, `--posix-acl`",
    options: &["--xattr", "--posix-acl=always"],
    before: "mount -t virtiofs share /mnt; echo >/mnt/file; setfattr -n user.name -v one /mnt/file",
    on_host: OnHost::Nothing,
    after: afterwards!(
        "setfattr -n user.name -v two /mnt/file; getfattr --absolute-names --only-values -n user.name /mnt/file"
    ),
    expected: "two",
};

/// See [`Device::specials`].
pub const SPECIALS: &[Special] = &[
    NAMELESS,
    Special {
        title: "an open file whose name is not UTF-8",
        options: &[],
        before: "mount -t virtiofs share /mnt; name=/mnt/$(printf 'caf\\351'); exec 5>$name; echo one >&5",
        on_host: OnHost::Nothing,
        after: afterwards!("echo two >&5; exec 5>&-; cat $name"),
        expected: "one\ntwo",
    },
    Special {
        title: "the host has forgotten names that the guest knows",
        options: &[],
        before: "mount -t virtiofs share /mnt; mkdir /mnt/sub; echo kept >/mnt/sub/file; ls -lR /mnt >/dev/null; sync",
        on_host: OnHost::ForgetNames,
        after: afterwards!("cat /mnt/sub/file"),
        expected: "kept",
    },
    Special {
        title: "a file that is appended to, `--writeback`",
        options: &["--writeback"],
        before: "mount -t virtiofs share /mnt; exec 5>>/mnt/grown; echo one >&5; sync",
        on_host: OnHost::Nothing,
        after: afterwards!(
            "echo two >&5; exec 5>&-; sync; echo 3 >/proc/sys/vm/drop_caches; cat /mnt/grown"
        ),
        expected: "one\ntwo",
    },
    ATTRIBUTE,
];

/// Programs that a guest needs besides its shell.
pub(super) const TOOLS: &[&str] = &["usr/bin/setfattr", "usr/bin/getfattr"];

/// QEMU's arguments.
const DEVICE: [&str; 4] = [
    "-chardev",
    "socket,id=share,path={socket}",
    "-device",
    "vhost-user-fs-pci,chardev=share,tag=share",
];

/// Who takes part.
pub fn participants() -> Result<Vec<Participant>> {
    debug_assert!(DEVICE[1].contains(SOCKET));
    let peer = plain(virtiofsd()?);
    let share = format!("--shared-dir {RESOURCE}");
    let new = |title, program, options| {
        let arguments = format!("{share} {options}");
        Participant {
            carrier: Some(b"vhost-user-fs-backend"),
            ..Participant::new(title, Device::Fs, program, &arguments, &DEVICE)
        }
    };
    Ok(vec![
        new("virtiofsd 1.14.0", peer.clone(), ""),
        new(
            "virtiofsd 1.14.0, `--migration-mode=file-handles`",
            peer,
            "--migration-mode=file-handles --modcaps=+dac_read_search",
        ),
        new("ours", ours("vhost-device-fs")?, ""),
    ])
}

/// See the [module](self).
#[derive(Debug)]
pub struct Writer;

impl Guest for Writer {
    fn start_work(&mut self, machine: &mut Machine) -> Result<()> {
        machine.run("mounting its share", START, GUEST_DEADLINE)?;
        Ok(())
    }

    fn look(&mut self, machine: &mut Machine) -> Result<String> {
        machine.run("its files", LOOK, GUEST_DEADLINE)?;
        Ok(String::new())
    }

    fn stop_work(&mut self, machine: &mut Machine) -> Result<()> {
        machine.run("ending its work", STOP, GUEST_DEADLINE)?;
        Ok(())
    }

    fn make_resource(&self, path: &Path) -> Result<()> {
        Ok(fs::create_dir(path)?)
    }
}
