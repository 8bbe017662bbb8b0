"""The pictures of a run, read from its data's folder. Nothing is painted: where they are gone, `why` says so."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from config import REMOVED, Config, config_from
from engine.folder import Folder
from engine.redraw import Seen, first_batch
from errors import LongtailError
from pictures import synthetic
from pictures.listing import listing
from pictures.looks import Look, look


class Album:
    """The pictures of a run by their path in its tables."""

    def __init__(self, run: Folder):
        self.run, self.why = run, ""
        self.files, self._looks = {}, {}
        try:
            # Of an older version's settings those that tell where the pictures are.
            data = Config().settings("data").keys() | {"data"}
            told = {name: value for name, value in run.settings.items() if name in data}
            config = config_from(told)
            places = [Path(place) for place in (config.data, run.env.get("data")) if place]
            root = next((place for place in places if place.is_dir()), None)
            if root is None and not config.data and synthetic.is_there():  # of another machine
                root = synthetic.folder()
            if root is None:
                raise LongtailError(f"the folder {config.data or 'of the built-in set'} is not there")
            labels, group_col = config.labels or None, config.group_col or None
            self.listing = listing(root, labels, config.image_col, config.label_col, group_col)
            self.files = dict(zip(self.listing.paths, self.listing.files))
        except (LongtailError, OSError) as error:
            self.why = f"Pictures cannot be shown: {error}."

    def read(self, paths: list[str]) -> None:
        """Reads those of the pictures that were not read yet, several at a time."""
        new = [path for path in dict.fromkeys(paths) if path in self.files and path not in self._looks]
        with ThreadPoolExecutor() as readers:
            self._looks |= zip(new, readers.map(look, [self.files[path] for path in new]))

    def look(self, path: str) -> Look | None:
        """A picture's Look; None where it cannot be read."""
        self.read([path])
        return self._looks.get(path)

    def jpeg(self, path: str) -> bytes | None:
        """A small copy of a picture."""
        found = self.look(path)
        return found and found.jpeg

    def batch(self) -> list[Seen]:
        """The first pictures of training as the network saw them. LongtailError where they cannot be drawn again."""
        if self.why:
            raise LongtailError(self.why)
        if gone := self.run.settings.keys() - vars(Config()).keys() - REMOVED.keys():
            raise LongtailError(f"the run is of another version, with settings unknown here: {', '.join(sorted(gone))}")
        return first_batch(self.run, config_from(self.run.settings), self.listing)
