"""Network file systems, which are polled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchd.watching.mounts import is_remote

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

MOUNTINFO = r"""20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:40 / /srv/nfs rw shared:1 - nfs4 host:/x rw
22 21 8:2 / /srv/nfs/local rw - xfs /dev/sdb rw
23 20 0:41 / /srv/two\040words rw - fuse.sshfs host: rw
24 20 0:42 / /srv/ntfs rw - fuseblk /dev/sdc rw
25 20 0:43 / /srv/lxc rw - fuse.lxcfs lxcfs rw
26 20 8:3 / /srv/over rw - cifs //a/b rw
27 20 8:3 / /srv/over rw - ext4 /dev/sdd rw
broken line
28 20 - short
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/x", False),
        ("/srv/nfs", True),
        ("/srv/nfs/deep/er", True),
        ("/srv/nfsx", False),
        ("/srv/nfs/local/x", False),
        ("/srv/two words/x", True),
        ("/srv/ntfs", False),
        ("/srv/lxc", False),
        ("/srv/over", False),
    ],
)
def test_is_remote(tmp_path: Path, path: str, expected: bool):
    """The deepest and latest mount that contains the path decides."""
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO, encoding="utf-8")
    assert is_remote(path, mountinfo=str(table)) is expected


def test_no_table(tmp_path: Path):
    """Without a table of mounts the path counts as local."""
    assert not is_remote(str(tmp_path), mountinfo=str(tmp_path / "missing"))


def test_real_table(tmp_path: Path):
    """The real table of mounts can be read."""
    assert is_remote(str(tmp_path)) in {True, False}
