import os
import stat

import pytest

from segr1_jax.common.files import new_directory, replacing, write_atomically


def test_the_new_content_appears_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022])
def test_files_and_directories_have_the_rights_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.txt", "text")
        with new_directory(tmp_path / "folder") as folder:
            write_atomically(folder / "b.txt", "text")
    finally:
        os.umask(before)

    def rights(name):
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert rights("a.txt") == rights("folder/b.txt") == 0o666 & ~umask
    assert rights("folder") == 0o777 & ~umask
