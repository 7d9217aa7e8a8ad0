/* The live page: asks once a second what is new, and draws it. Whatever a run says is put into the page as text. */
(() => {
  "use strict";
  const PAUSE = 1000;  // ms between two questions, at least
  const SHOWN = 8;  // experiences that are drawn unasked
  const FIXED = 6;  // columns that every table has
  const at = id => document.getElementById(id);
  const lines = new Map();  // of the table, by run: they stay where they are, and so does the focus in them
  let chosen = null, byHand = false, known = "", runs = [], curve = null, chart = null;

  const duration = seconds => seconds === null ? "—"
    : seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min`
    : seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
  const make = (name, inside, attributes = {}) => {
    const made = document.createElement(name);
    made.append(...[inside].flat());
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const ask = async address => {
    const answer = await fetch(address);
    if (answer.status === 204) return null;
    if (!answer.ok) throw new Error(answer.statusText);
    return answer.json();
  };

  // --- all runs ---

  const overall = told => {
    const counts = {};
    for (const run of runs) counts[run.state] = (counts[run.state] || 0) + 1;
    const states = Object.entries(counts).map(([state, count]) => runs.length > 1 ? `${count} ${state}` : state);
    const left = told.left === null ? "" : `; about ${duration(told.left)} left`;
    const open = (counts.running || 0) + (counts.waiting || 0);
    at("title").textContent = told.title;
    at("overall").textContent = runs.length ? states.join(", ") + left : "no run yet";
    document.title = `${open ? `${runs.length - open}/${runs.length} · ` : ""}${told.title}`;
  };
  const table = () => {
    at("several").hidden = runs.length < 2;
    for (const [key, line] of lines) {
      if (runs.some(run => run.key === key)) continue;
      line.remove();
      lines.delete(key);
    }
    const measures = [...new Set(runs.flatMap(run => Object.keys(run.told || {})))];
    while (at("heads").cells.length > FIXED) at("heads").lastElementChild.remove();
    at("heads").append(...measures.map(name => make("th", name, { scope: "col" })));
    for (const run of runs) {
      if (!lines.has(run.key)) {
        const name = make("button", [], { type: "button" });
        name.addEventListener("click", () => { byHand = true; choose(run.key); table(); follow().catch(lost); });
        lines.set(run.key, make("tr", make("th", name, { scope: "row" })));
        at("runs").append(lines.get(run.key));
      }
      const line = lines.get(run.key);
      const bar = make("progress", [], { max: run.steps || 1, value: run.step, "aria-label": "steps" });
      line.querySelector("button").textContent = run.strategy || run.id;
      while (line.cells.length > 1) line.lastChild.remove();
      line.append(
        make("td", run.benchmark || "", { class: "words" }),
        make("td", String(run.seed ?? "")),
        make("td", make("span", run.state, { class: `state ${run.state}` }), { class: "words" }),
        make("td", run.steps ? [bar, ` ${run.step} / ${run.steps}`] : "—", { class: "words" }),
        make("td", duration(run.left)),
        ...measures.map(name => make("td", run.told?.[name] ?? "—")));
      if (run.key === chosen) line.setAttribute("aria-current", "true"); else line.removeAttribute("aria-current");
    }
  };
  const choose = key => {
    if (key !== chosen) [chosen, curve] = [key, null];
  };
  const pick = () => {  // what runs, unless somebody has chosen
    const now = runs.find(run => run.key === chosen);
    if (now && (byHand || now.state === "running")) return;
    byHand = false;
    const next = runs.find(run => run.state === "running") || now || runs.findLast(run => run.step) || runs[0];
    choose(next ? next.key : null);
  };

  // --- one of them ---

  const facts = () => {
    const run = runs.find(run => run.key === chosen);
    at("name").textContent = [run.strategy, run.benchmark].filter(Boolean).join(" on ")
      + (run.seed === null ? "" : `, seed ${run.seed}`);
    const rows = [["state", run.state], ["steps", run.steps ? `${run.step} / ${run.steps}` : "—"]];
    if (run.state === "running") rows.push(["left", duration(run.left)]);
    rows.push(...Object.entries(run.told || {}), ["run", run.id]);
    at("facts").replaceChildren(...rows.map(([name, value]) => make("div", [make("dt", name), make("dd", value)])));
    at("caption").textContent = [run.note, curve.note, curve.estimated
      ? "Estimates: the evaluation looks at a part of the examples where no lowest accuracy can change." : ""]
      .filter(Boolean).join(" ");
    at("about").textContent = curve.about || "";
  };
  const extend = told => {  // what was known of the curve, by what is new; false if they do not fit
    if (told.start > 0 && curve.each.length !== told.each.length) return false;
    if (told.start > 0) {
      told.x = curve.x.concat(told.x);
      for (const key in told.summary) told.summary[key] = curve.summary[key].concat(told.summary[key]);
      told.each = told.each.map((line, i) => curve.each[i].concat(line));
    }
    curve = told;
    return true;
  };
  const log = () => {
    const told = curve.log.map(({ step, experience, lr, ...losses }) => [
      `step ${step}`, `experience ${experience + 1}`, `lr ${Number(lr).toPrecision(3)}`,
      ...Object.entries(losses).map(([name, value]) => `${name} ${Number(value).toFixed(4)}`)].join("  "));
    at("log").textContent = told.join("\n") || "No loss was logged yet.";
  };
  const draw = () => {
    const grid = curve.x.map((x, k) => k ? x - curve.x[k - 1] : x);
    const line = y => curve.x.length ? { grid: 0, y } : null;
    const ends = Math.max(curve.experiences, 1);
    const data = {
      title: at("name").textContent,
      x: { label: "experiences", scale: 1, range: [0, ends], names: [], whole: false,
        marks: Array.from({ length: ends - 1 }, (_, e) => e + 1) },
      panels: curve.panels.map(panel => ({ ...panel, scale: 1 })),
      series: [
        ...curve.lines.map(({ key, name, color, dash, panel }) => ({ name, color, dash, shown: true,
          lines: curve.panels.map((_, at) => at === panel && curve.summary[key].some(y => y !== null)
            ? line(curve.summary[key]) : null) })),
        ...curve.each.map((y, i) => ({ name: curve.streams[i].name, color: curve.streams[i].color,
          dash: curve.streams[i].dash, shown: i < SHOWN, lines: [line(y), null] }))],
      grids: [grid],
    };
    if (chart) chart.update(data); else chart = clbenchChart(at("chart"), data);
  };
  const follow = async () => {
    const key = chosen, [version, start] = curve && curve.x ? [curve.version, curve.x.length] : ["", 0];
    const told = await ask(`/run?key=${key}&version=${version}&start=${start}`);
    if (key !== chosen) return;
    if (told.x && !extend(told)) {  // another stream came in: all anew
      curve = null;
      return follow();
    }
    if (!told.x) curve = told;
    at("one").hidden = false;
    at("chart").hidden = !curve.x?.length;
    facts();
    log();
    if (curve.x?.length) draw();
  };

  // --- again and again ---

  const lost = () => {
    known = "";
    at("overall").textContent = "Nothing is served any more: what is shown is the last that was heard.";
  };
  const turn = async () => {
    const began = performance.now();
    try {
      const told = document.hidden ? null : await ask(`/runs?known=${known}`);
      if (told !== null) {
        [known, runs] = [told.known, told.runs];
        pick();
        overall(told);
        table();
        if (chosen !== null) await follow(); else at("one").hidden = true;
      }
    } catch (error) {
      lost();
    }
    setTimeout(turn, Math.max(PAUSE, 5 * (performance.now() - began)));
  };
  turn();
})();
