"use strict";
// Sorts, filters and opens the rows of one table. Text from outside is only ever set as text, never as markup.
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const table = one("#rows");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const search = one("#search");
  const filters = all("[data-filter]");
  const shown = one("#shown");
  const opened = new Map(); // row -> the row with its details
  let picked = null; // the lines that one finding concerns, while only those are shown

  // --- filter ------------------------------------------------------------------------------------------------------

  const words = new Map(rows.map((row) => [row, `${row.dataset.key} ${row.dataset.block} ${row.cells[0].textContent}`.toLowerCase()]));

  function passes(row, wanted) {
    return wanted.every(([name, value]) =>
      name === "code" ? row.dataset.code.split(" ").includes(value) : row.dataset[name] === value);
  }

  function filter() {
    const wanted = filters.filter((select) => select.value).map((select) => [select.dataset.filter, select.value]);
    const parts = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const row of rows) {
      const there = passes(row, wanted) && (!picked || picked.lines.has(row.id)) && parts.every((part) => words.get(row).includes(part));
      row.hidden = !there;
      if (opened.has(row)) opened.get(row).hidden = !there;
      number += there;
    }
    const whole = `${rows.length} ${rows.length === 1 ? "matrix" : "matrices"}`;
    const why = picked ? `, those of ${picked.code}` : "";
    shown.textContent = number === rows.length ? whole : `${number} of ${whole}${why}`;
  }

  function choose(values, finding = null) {
    picked = finding;
    search.value = "";
    for (const select of filters) select.value = values[select.dataset.filter] ?? "";
    filter();
  }

  function show(values, finding = null) {
    choose(values, finding);
    one("#matrices").scrollIntoView();
    one(".tall").focus({ preventScroll: true });
  }

  // --- sort --------------------------------------------------------------------------------------------------------

  const valueOf = (row, column) => {
    const value = row.cells[column].dataset.v;
    return value === "" || value === undefined ? NaN : Number(value);
  };

  function sort(column, order) {
    const known = rows.map((row, place) => ({ row, place, value: valueOf(row, column) }));
    known.sort((a, b) => {
      if (Number.isNaN(a.value) || Number.isNaN(b.value)) return Number.isNaN(a.value) - Number.isNaN(b.value) || a.place - b.place;
      return (a.value === b.value ? 0 : a.value < b.value ? -order : order) || a.place - b.place;
    });
    for (const { row } of known) {
      body.append(row);
      if (opened.has(row)) body.append(opened.get(row));
    }
    all("thead th", table).forEach((head, place) => {
      if (place === column) head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  function sortable() {
    all("thead th", table).forEach((head, column) => {
      const button = make("button", { type: "button", className: "sort" }); // over the name, which print repeats
      button.setAttribute("aria-label", `Sort by ${head.textContent}`);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = column === 0 ? 1 : -1; // names upwards, numbers from the largest
        sort(column, now === null ? first : now === "ascending" ? -1 : 1);
      });
    });
    one("thead th", table).setAttribute("aria-sort", "ascending");
  }

  // --- the details of a matrix -------------------------------------------------------------------------------------

  let numbers = null; // parsed when they are first needed
  const DRAWN = new Set(["spectrum", "sweep"]);

  function report() {
    numbers ??= JSON.parse(one("#spectra-report").textContent);
    return numbers;
  }

  const written = (value) => {
    if (value === null) return "none";
    if (typeof value === "number") return String(Number(value.toPrecision(5)));
    return Array.isArray(value) ? value.map(written).join(", ") : String(value);
  };

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const isColumn = (value) => Array.isArray(value) && value.length > 1 && value.every((item) => typeof item !== "object" || item === null);

  function listed(pairs) {
    const list = make("dl");
    for (const [name, value] of pairs) list.append(make("dt", { textContent: name }), make("dd", { textContent: written(value) }));
    return list;
  }

  // Lists of one length stand side by side: one line for each leading direction.
  function tabled(columns) {
    const head = make("tr", {}, make("th", { textContent: "#", scope: "col" }), ...columns.map(([name]) => make("th", { textContent: name, scope: "col" })));
    const lines = columns[0][1].map((_, place) =>
      make("tr", {}, make("th", { textContent: String(place + 1), scope: "row" }), ...columns.map(([, values]) => make("td", { textContent: written(values[place]) }))));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
  }

  // Every measurement under its own name, whatever a row holds: [plain ones, those with one value a direction].
  function measurements(name, value, heading) {
    const entries = Object.entries(value).filter(([key]) => !DRAWN.has(key));
    const columns = entries.filter(([, item]) => isColumn(item));
    const plain = entries.filter(([, item]) => !isObject(item) && !isColumn(item));
    const lists = plain.length ? [make("div", {}, make(heading, { textContent: name }), listed(plain))] : [];
    const tables = [...new Set(columns.map(([, item]) => item.length))].map((length) =>
      make("div", {}, make(heading, { textContent: `${name}, one by one` }), tabled(columns.filter(([, item]) => item.length === length))));
    for (const [key, item] of entries.filter(([, inner]) => isObject(inner))) {
      const [more, wider] = measurements(`${name}.${key}`, item, heading);
      lists.push(...more);
      tables.push(...wider);
    }
    return [lists, tables];
  }

  function described(layer, heading) {
    const entries = Object.entries(layer);
    const general = entries.filter(([name, value]) => !isObject(value) && value !== null && value !== "" && name !== "notes");
    const groups = entries.filter(([name, value]) => isObject(value) && !DRAWN.has(name)).map(([name, value]) => measurements(name, value, heading));
    const absent = entries.filter(([, value]) => value === null).map(([name]) => name);
    const notes = [...(layer.notes ?? []), ...(absent.length ? [`Without a value here: ${absent.join(", ")}.`] : [])];
    return [
      make("div", { className: "lists" }, make("div", {}, make(heading, { textContent: "matrix" }), listed(general)), ...groups.flatMap(([lists]) => lists)),
      ...groups.flatMap(([, tables]) => tables),
      make("div", {}, ...notes.map((note) => make("p", { textContent: note }))),
    ];
  }

  function details(row) {
    const box = make("div", { className: "parts" });
    for (const [model, position] of JSON.parse(row.dataset.at)) {
      const layer = (model === "" ? report() : report().models[model]).layers[position];
      if (model !== "") box.append(make("h3", { className: "model", textContent: model }));
      box.append(...described(layer, model === "" ? "h3" : "h4"));
    }
    const panel = one(`.panel a[href="#${row.id}"]`);
    if (panel) one(".lists", box).prepend(panel.closest("figure").cloneNode(true));
    return make("tr", { className: "more" }, make("td", { colSpan: row.cells.length }, box));
  }

  function toggle(row, button) {
    const open = !opened.has(row);
    button.setAttribute("aria-expanded", String(open));
    button.firstChild.data = open ? "−" : "+";
    if (open) {
      opened.set(row, details(row));
      row.after(opened.get(row));
    } else {
      opened.get(row).remove();
      opened.delete(row);
    }
  }

  function openable() {
    for (const row of rows) {
      const button = make("button", { type: "button", className: "open", textContent: "+" });
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-label", `All measurements of ${row.dataset.key}`);
      row.cells[0].prepend(button);
    }
    body.addEventListener("click", (event) => {
      const button = event.target.closest(".open");
      if (button) toggle(button.closest("tr"), button);
    });
  }

  // --- the map, links into the table, the download -----------------------------------------------------------------

  function measured() {
    const pick = one("#measure");
    if (!pick) return;
    pick.closest("p").hidden = false;
    const section = pick.closest("section");
    pick.addEventListener("change", () => {
      for (const item of all("[data-measure]", section)) item.hidden = item.dataset.measure !== pick.value;
    });
  }

  function linked() {
    document.addEventListener("click", (event) => {
      const only = event.target.closest(".only");
      const link = event.target.closest('a[href^="#m"]');
      if (only) show({}, { code: only.dataset.code, lines: new Set(only.dataset.lines.split(" ").map((line) => `m${line}`)) });
      if (!link || !/^#m\d+$/.test(link.hash)) return;
      event.preventDefault();
      if (link.dataset.module !== undefined) return show({ block: link.dataset.block, module: link.dataset.module });
      const row = one(link.hash);
      if (row.hidden) choose({});
      history.replaceState(null, "", link.hash);
      row.scrollIntoView({ block: "center" });
      row.focus({ preventScroll: true });
    });
  }

  function saved() {
    const button = one("#save");
    let address = null; // kept for a second click: to revoke it at once could stop the first
    button.hidden = false;
    button.addEventListener("click", () => {
      address ??= URL.createObjectURL(new Blob([JSON.stringify(report(), null, 1)], { type: "application/json" }));
      make("a", { href: address, download: "spectra-report.json" }).click();
    });
  }

  sortable();
  openable();
  measured();
  linked();
  saved();
  one(".controls").hidden = false;
  for (const item of all(".only, .scripted")) item.hidden = false;
  search.addEventListener("input", filter);
  for (const select of filters) select.addEventListener("change", filter);
  one("#reset").addEventListener("click", () => choose({}));
})();
