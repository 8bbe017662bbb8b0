// Tables that sort and filter, charts whose points speak, by mouse and by keyboard. Puts text in as text alone.
"use strict";
const tip = document.getElementById("tip");
const all = (selector, where = document) => [...where.querySelectorAll(selector)];
function say(text, x, y) {
  tip.hidden = !text;
  tip.textContent = text;
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 6)) + "px";
  tip.style.top = (y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18) + "px";
}

function sort(head) {
  const table = head.closest("table"), numeric = head.classList.contains("n");
  // Numbers begin with the largest, names with A; a second click turns the order round.
  const before = head.getAttribute("aria-sort");
  const down = before ? before === "ascending" : numeric;
  for (const other of all("th", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const text = row.cells[head.cellIndex].textContent;
    return [numeric ? parseFloat(text) : text, row];
  });
  keyed.sort(([a], [b]) => {
    if (numeric && (isNaN(a) || isNaN(b))) return isNaN(a) - isNaN(b); // what is not known comes last
    return (numeric ? a - b : compare(a, b)) * (down ? -1 : 1);
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

// "van gogh" finds what holds both words; "f1>0.3" compares the column of that name, or else one whose name begins so.
function filter(box) {
  const rows = all("tbody tr, .strip", box);
  const names = all("th", box).map((head) => head.textContent.toLowerCase().replace(/\s/g, "_"));
  const tests = box.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [, name, sign, value] = word.match(/^([^<>=]+)([<>]=?|=)(.+)$/) || [];
    const exact = names.indexOf(name);
    const column = exact < 0 && name ? names.findIndex((each) => each.startsWith(name)) : exact;
    return (row) => {
      const plain = column < 0 || (sign !== "=" && isNaN(value));
      if (plain) return row.textContent.toLowerCase().includes(word);
      const text = row.cells[column].textContent.toLowerCase(), number = parseFloat(text);
      if (sign === "=") return text === value || number === Number(value);
      const least = { ">": number > value, ">=": number >= value, "<": number < value, "<=": number <= value };
      return least[sign];
    };
  });
  for (const row of rows) row.hidden = !tests.every((test) => test(row));
  const shown = rows.filter((row) => !row.hidden).length;
  box.querySelector("output").textContent = tests.length ? `${shown} of ${rows.length}` : "";
}

for (const head of all("th")) head.firstChild.onclick = () => sort(head);
for (const field of all("input")) field.oninput = () => filter(field.closest(".table, details"));

// What a matrix says: of cell i its text and place; the cell at a place; by how many cells a key moves on.
function matrix(image, { names, cells }) {
  const count = names.length, said = new Map(cells.map(([r, c, text]) => [r * count + c, text]));
  const at = (i) => {
    const { left, top, width, height } = image.getBoundingClientRect(), r = Math.floor(i / count), c = i % count;
    const text = `${names[r]} → ${names[c]}: ${said.get(i) ?? "none"}`;
    return { text, x: left + ((c + 0.5) * width) / count, y: top + ((r + 0.5) * height) / count };
  };
  const near = (x, y) => {
    const { left, top, width, height } = image.getBoundingClientRect();
    const c = Math.floor(((x - left) / width) * count), r = Math.floor(((y - top) / height) * count);
    return r >= 0 && c >= 0 && r < count && c < count ? r * count + c : -1;
  };
  return { count: count ** 2, at, near, by: { ArrowRight: 1, ArrowLeft: -1, ArrowDown: count, ArrowUp: -count } };
}

// The same of points.
function points(svg, tips) {
  const marks = Object.entries(tips).flatMap(([gid, lines]) => {
    return all(`[id$="-${gid}"] use`, svg).map((mark, i) => [mark, lines[i]]);
  });
  const at = (i) => {
    const { left, top, width, height } = marks[i][0].getBoundingClientRect();
    return { text: marks[i][1], x: left + width / 2, y: top + height / 2 };
  };
  const near = (x, y) => {
    let best = -1, least = 30 ** 2; // px, squared
    marks.forEach((_, i) => {
      const place = at(i), distance = (place.x - x) ** 2 + (place.y - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  };
  return { count: marks.length, at, near, by: { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 } };
}

for (const script of all("figure > script")) {
  const area = script.parentElement.querySelector(".scroll");
  let chart = null, now = -1;
  const wake = () => {
    const { grid, tips } = JSON.parse(script.textContent), svg = area.firstChild;
    return (chart ??= grid ? matrix(svg.querySelector("image"), grid) : points(svg, tips));
  };
  const show = (i) => {
    now = i;
    const { text, x, y } = i < 0 ? { text: "" } : chart.at(i);
    say(text, x, y);
  };
  area.onpointermove = (event) => show((chart ?? wake()).near(event.clientX, event.clientY));
  area.onpointerleave = area.onblur = () => show(-1);
  area.onkeydown = (event) => {
    const { by, count } = chart ?? wake(), step = by[event.key], next = now < 0 ? 0 : now + step;
    if (event.key === "Escape") show(-1);
    if (step) event.preventDefault();
    if (step && next >= 0 && next < count) show(next);
  };
}

// Two rows of a table, side by side.
for (const box of all("[data-compare]")) {
  const table = document.querySelector(`#${box.dataset.compare} table`), picks = all("select", box);
  const rows = [...table.tBodies[0].rows];
  const draw = () => {
    const columns = [table.tHead.rows[0], ...picks.map((pick) => rows[pick.value])];
    box.querySelector("tbody").replaceChildren(...[...table.tHead.rows[0].cells].map((_, i) => {
      const line = document.createElement("tr"), words = columns.map((row) => row.cells[i].textContent);
      line.className = words[1] === words[2] ? "" : "differs";
      for (const word of words) line.insertCell().textContent = word;
      return line;
    }));
  };
  picks.forEach((pick, k) => {
    pick.append(...rows.map((row, i) => new Option(row.cells[0].textContent, i)));
    pick.value = Math.min(k, rows.length - 1);
    pick.onchange = draw;
  });
  draw();
}

addEventListener("beforeprint", () => all("details").forEach((each) => (each.open = true)));
addEventListener("keydown", (event) => {
  if (event.key !== "/" || /INPUT|SELECT/.test(document.activeElement.tagName)) return;
  event.preventDefault();
  document.querySelector("input")?.focus();
});
const seconds = Number(document.documentElement.dataset.refresh); // a page of what goes on
// It is read again, but not while somebody types or points.
if (seconds) setInterval(() => document.activeElement === document.body && tip.hidden && location.reload(), 1000 * seconds);
