"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const STEP = 500; // rows and boxes that are drawn before "more" is asked for
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const seconds = (value) => value >= 1 ? value.toFixed(2) + " s" : value >= 0.001 ? (value * 1000).toFixed(1) + " ms" : Math.round(value * 1e6) + " µs";
  const short = (digest) => digest.replace(/^.*:/, "").slice(0, 12);

  data.vertices.forEach((vertex, at) => {
    vertex.at = at;
    vertex.text = (vertex.name + " " + vertex.digest).toLowerCase();
    vertex.start = Math.min(...vertex.calls.map((call) => call[1]));
    vertex.end = Math.max(...vertex.calls.map((call) => call[2] ?? data.seconds));
    // The time in which any call of it ran, however many did at once.
    let until = 0;
    vertex.worked = 0;
    for (const [, start, end] of [...vertex.calls].sort((a, b) => a[1] - b[1])) {
      vertex.worked += Math.max(0, (end ?? data.seconds) - Math.max(start, until));
      until = Math.max(until, end ?? data.seconds);
    }
  });
  const critical = new Set(data.critical);
  const figures = byId("figures");
  figures.textContent = `${data.vertices.length} vertices, ${data.jobs.length} jobs, ${data.events} events in ${seconds(data.seconds)}`
    + (data.lost ? `; ${data.lost} events were lost` : "") + (data.ended ? "" : "; the trace has no end");

  const option = (select, value, text) => { const node = make("option", "", text); node.value = value; select.append(node); };
  option(byId("job"), "", "all jobs");
  data.jobs.forEach((job, at) => option(byId("job"), at, `${job.id} (${job.vertices})`));
  option(byId("outcome"), "", "all outcomes");
  [...new Set(data.vertices.map((vertex) => vertex.outcome))].sort().forEach((word) => option(byId("outcome"), word, word));

  let lit = null;
  const light = (at) => {
    lit = at;
    document.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit"));
    document.querySelectorAll(`[data-at="${at}"]`).forEach((node) => node.classList.add("lit"));
    detail(data.vertices[at]);
  };
  const link = (node, at) => { node.dataset.at = at; node.addEventListener("click", () => light(at)); return node; };

  const detail = (vertex) => {
    const panel = byId("detail");
    panel.replaceChildren();
    const close = make("button", "", "×");
    close.addEventListener("click", () => { panel.hidden = true; });
    panel.append(close, make("h2", "", vertex.name || "(no name)"), make("code", "", vertex.digest));
    const line = (text) => panel.append(make("div", "", text));
    line(`${vertex.outcome}; jobs: ${vertex.jobs.map((job) => data.jobs[job].id).join(", ") || "none"}`);
    if (vertex.why) line("not cached: " + vertex.why);
    const refer = (title, list) => list.forEach((at) => {
      const row = make("div");
      const cell = make("span", "", `${title}: ${data.vertices[at].name} (${short(data.vertices[at].digest)})`);
      cell.style.cssText = "cursor:pointer;text-decoration:underline dotted";
      cell.addEventListener("click", () => light(at));
      row.append(cell);
      panel.append(row);
    });
    refer("input", vertex.inputs);
    if (vertex.merged !== undefined) refer("merged into", [vertex.merged]);
    vertex.calls.forEach(([call, start, end, wrong]) =>
      line(`${start.toFixed(6)} s  ${call} ${end === null ? "did not end" : "for " + seconds(end - start)}${wrong ? ": " + wrong : ""}`));
    vertex.keys.forEach((key) => line("key " + short(key)));
    panel.hidden = false;
  };

  // Boxes in columns: a vertex is one column right of the last of its inputs. Inputs come before what they are inputs of.
  const drawGraph = (shown) => {
    const holder = byId("graph");
    holder.replaceChildren();
    byId("graph-count").textContent = shown.length > STEP ? `the first ${STEP} of ${shown.length}: search to see others` : String(shown.length);
    const list = shown.slice(0, STEP);
    const places = new Map(), heights = [];
    const WIDTH = 230, HEIGHT = 30, GAP_X = 60, GAP_Y = 12;
    for (const vertex of list) {
      let column = 0;
      for (const input of vertex.inputs) {
        const place = places.get(input);
        if (place) column = Math.max(column, place.column + 1);
      }
      const row = heights[column] = (heights[column] ?? -1) + 1;
      places.set(vertex.at, { column, row, x: 10 + column * (WIDTH + GAP_X), y: 10 + row * (HEIGHT + GAP_Y) });
    }
    const root = svg("svg", { width: 20 + heights.length * (WIDTH + GAP_X), height: 20 + Math.max(1, ...heights.map((height) => height + 1)) * (HEIGHT + GAP_Y) });
    const curve = (from, to, className) => {
      const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
      root.append(svg("path", { class: className, d: `M${x1} ${y1}C${x1 + GAP_X / 2} ${y1} ${x2 - GAP_X / 2} ${y2} ${x2} ${y2}` }));
    };
    for (const vertex of list) {
      const place = places.get(vertex.at);
      vertex.inputs.forEach((input) => places.has(input) && curve(places.get(input), place, ""));
      if (places.has(vertex.merged)) curve(place, places.get(vertex.merged), "merge");
    }
    for (const vertex of list) {
      const place = places.get(vertex.at);
      const group = link(svg("g", { transform: `translate(${place.x} ${place.y})` }), vertex.at);
      group.append(svg("rect", { width: WIDTH, height: HEIGHT, class: vertex.outcome }));
      const label = svg("text", { x: 8, y: 19 });
      label.textContent = vertex.name.length > 36 ? vertex.name.slice(0, 35) + "…" : vertex.name;
      const title = svg("title", {});
      title.textContent = `${vertex.name}\n${vertex.digest}\n${vertex.outcome}`;
      group.append(title, label);
      root.append(group);
    }
    holder.append(root);
  };

  const inSteps = (holder, list, row) => {
    holder.replaceChildren();
    let shown = 0;
    const more = make("button", "more");
    const next = () => {
      const part = document.createDocumentFragment();
      list.slice(shown, shown + STEP).forEach((entry) => part.append(row(entry)));
      shown += STEP;
      more.before(part);
      more.hidden = shown >= list.length;
      more.textContent = `show more (${list.length - shown} left)`;
    };
    more.addEventListener("click", next);
    holder.append(more);
    next();
  };

  const drawTimeline = (shown) => {
    const list = shown.filter((vertex) => vertex.calls.length).sort((a, b) => a.start - b.start);
    byId("timeline-count").textContent = String(list.length);
    inSteps(byId("timeline"), list, (vertex) => {
      const row = link(make("div", "row"), vertex.at);
      row.append(make("span", "time", seconds(vertex.worked)), make("span", "badge " + vertex.outcome, vertex.outcome));
      const name = make("span", "name", vertex.name);
      name.title = vertex.name;
      const track = make("span", "track");
      const within = (value) => Math.min(Math.max(value, data.from), data.to);
      const share = (start, end) => 100 * (within(end) - within(start)) / (data.to - data.from || 1) + "%";
      const whole = make("i", "waits");
      whole.style.left = share(data.from, vertex.start);
      whole.style.width = share(vertex.start, vertex.end);
      whole.title = `from its first call to its last ${seconds(vertex.end - vertex.start)}`;
      track.append(whole);
      for (const [call, start, end, wrong] of vertex.calls) {
        const bar = make("i", call + (wrong ? " wrong" : ""));
        bar.style.left = share(data.from, start);
        bar.style.width = share(start, end ?? data.seconds);
        bar.title = `${call} ${seconds((end ?? data.seconds) - start)}`;
        track.append(bar);
      }
      row.append(name, track);
      return row;
    });
  };

  const table = (holder, titles, list, cells) => {
    const body = make("table"), head = make("tr");
    titles.forEach((title) => head.append(make("th", "", title)));
    body.append(head);
    holder.replaceChildren(body);
    list.slice(0, 10 * STEP).forEach((entry) => {
      const row = make("tr");
      cells(entry).forEach((cell) => {
        const at = typeof cell === "number" ? cell : undefined;
        const node = make("td", at === undefined ? "" : "go", at === undefined ? cell : `${data.vertices[at].name} (${short(data.vertices[at].digest)})`);
        if (at !== undefined) node.addEventListener("click", () => light(at));
        row.append(node);
      });
      body.append(row);
    });
  };

  const draw = () => {
    const words = byId("search").value.toLowerCase().trim();
    const job = byId("job").value, outcome = byId("outcome").value, path = byId("critical").checked;
    const shown = data.vertices.filter((vertex) =>
      (!words || vertex.text.includes(words)) && (job === "" || vertex.jobs.includes(Number(job)))
      && (!outcome || vertex.outcome === outcome) && (!path || critical.has(vertex.digest)));
    const places = new Set(shown.map((vertex) => vertex.at));
    drawGraph(shown);
    drawTimeline(shown);
    const merges = data.merges.filter((merge) => places.has(merge.source) || places.has(merge.target));
    byId("merges-count").textContent = String(merges.length);
    table(byId("merges"), ["time", "source", "", "target", "reason"], merges, (merge) =>
      [seconds(merge.time), merge.source, merge.refused ? "stays apart from" : "into", merge.target, merge.reason]);
    const notes = data.notes.filter((note) => note.vertex === null || places.has(note.vertex));
    byId("notes-count").textContent = String(notes.length);
    table(byId("notes"), ["time", "event", "vertex", "what"], notes, (note) => [seconds(note.time), note.kind, note.vertex ?? "", note.text]);
    if (lit !== null) document.querySelectorAll(`[data-at="${lit}"]`).forEach((node) => node.classList.add("lit"));
  };
  let pending = 0;
  byId("search").addEventListener("input", () => { clearTimeout(pending); pending = setTimeout(draw, 120); });
  ["job", "outcome", "critical"].forEach((id) => byId(id).addEventListener("change", draw));
  draw();
  document.body.dataset.ready = "yes";
})();
