/* Charts that follow their data: draws what `clbench.reports.charts` writes, with uPlot. Names are set as text only.

`clbenchChart(root, data)` fills an element and returns `{update(data)}`, by which new data keep what is shown. */
const clbenchChart = (() => {
  "use strict";
  const BEFORE = 0.12, AFTER = 0.36;  // what is seen around a mark
  const MOST = 14;  // lines that the box under the pointer names
  const BEGUN = 0.1;  // of the first experience: what a loss falls by before would hide all that comes later
  const BANDS = 10;  // lines with bands, at most; of more, the one in focus has one

  const make = (name, about = {}, ...inside) => {
    const made = Object.assign(document.createElement(name), about);
    made.append(...inside);
    return made;
  };
  const swatch = series => {
    const space = "http://www.w3.org/2000/svg";
    const picture = document.createElementNS(space, "svg"), line = document.createElementNS(space, "line");
    const look = { x2: 40, y1: 1.5, y2: 1.5, stroke: `var(${series.color})`, "stroke-width": 2.5 };
    if (series.dash.length) look["stroke-dasharray"] = series.dash.join(" ");
    for (const [key, value] of Object.entries(look)) line.setAttribute(key, value);
    picture.setAttribute("viewBox", "0 0 40 3");
    picture.setAttribute("aria-hidden", "true");
    picture.append(line);
    return picture;
  };

  /** Lines as numbers: {x, y, half} for each series and panel, or null. */
  const read = data => {
    const grids = data.grids.map(steps => {
      let at = 0;
      return steps.map(step => (at += step) * data.x.scale);
    });
    const numbers = (values, scale) => values.map(value => value === null ? null : value * scale);
    return data.series.map(series => series.lines.map((line, panel) => line && {
      x: grids[line.grid],
      y: numbers(line.y, data.panels[panel].scale),
      half: line.half ? numbers(line.half, data.panels[panel].scale) : null,
    }));
  };

  /** The place in an ascending list that is nearest to a value. */
  const nearest = (list, value) => {
    let low = 0, high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < value) low = middle; else high = middle;
    }
    return value - list[low] < list[high] - value ? low : high;
  };

  return (root, given) => {
    let data, lines, shown, full, zoom = null, plots = [], items = [];
    const scope = root.closest("[data-charts]") || root;
    const css = name => getComputedStyle(root).getPropertyValue(name).trim();

    // --- what is seen of it ---

    const visible = i => shown.has(data.series[i].name);
    const seen = panel => {  // the table that uPlot takes: one x for all lines, null where a line has no point
      const tables = lines.map((of, i) => visible(i) && of[panel] ? [of[panel].x, of[panel].y] : null);
      const there = tables.filter(Boolean);
      if (!there.length) return [full, ...tables.map(() => [null, null])];
      const [x, ...joined] = uPlot.join(there, there.map(() => [1]));  // 1: a gap where there is no value
      const empty = Array(x.length).fill(null);
      let next = 0;
      return [x, ...tables.map(table => table ? joined[next++] : empty)];
    };
    const refresh = () => plots.forEach((plot, panel) => plot.batch(() => {
      data.series.forEach((_, i) => plot.series[i + 1].show = visible(i));
      plot.setData(seen(panel), false);
      plot.setScale("x", { min: (zoom || full)[0], max: (zoom || full)[1] });
    }));
    const look = range => {
      zoom = range;
      plots.forEach(plot => plot.setScale("x", { min: (zoom || full)[0], max: (zoom || full)[1] }));
      const around = data.x.marks.findIndex(mark => zoom && zoom[0] === mark - BEFORE && zoom[1] === mark + AFTER);
      select.value = zoom ? (around < 0 ? "free" : String(around)) : "";
      whole.hidden = !zoom;
    };
    const tell = () => {
      items.forEach(([box], i) => box.checked = visible(i));
      count.textContent = `${data.series.filter((_, i) => visible(i)).length} of ${data.series.length} shown`;
      const known = new Set(data.series.map(series => series.name));
      for (const other of scope.querySelectorAll("[data-line]"))
        if (known.has(other.dataset.line)) other.classList.toggle("off", !shown.has(other.dataset.line));
    };
    const show = names => {
      shown = new Set(names);
      refresh();
      tell();
      scope.dispatchEvent(new CustomEvent("lines", { detail: { shown, from: root } }));
    };
    scope.addEventListener("lines", event => {  // charts beside each other show the same
      if (event.detail.from === root) return;
      shown = event.detail.shown;
      refresh();
      tell();
    });

    // --- controls ---

    const select = make("select", { ariaLabel: "part of the stream" });
    select.addEventListener("change", () => {
      const mark = data.x.marks[select.value];
      if (select.value !== "free") look(select.value === "" ? null : [mark - BEFORE, mark + AFTER]);
    });
    const whole = make("button", { type: "button", hidden: true, onclick: () => look(null) }, "reset zoom");
    const find = make("input", { type: "search", placeholder: "find …", ariaLabel: "find a line" });
    find.addEventListener("input", () => items.forEach(([, item], i) =>
      item.hidden = !data.series[i].name.toLowerCase().includes(find.value.trim().toLowerCase())));
    const names = () => data.series.map(series => series.name);
    const some = make("button", { type: "button", title: "what is shown at first" }, "best");
    some.onclick = () => show(data.series.filter(series => series.shown).map(series => series.name));
    const all = make("button", { type: "button", onclick: () => show(names()) }, "all");
    const none = make("button", { type: "button", onclick: () => show([]) }, "none");
    const count = make("output"), list = make("ul"), panels = make("div", { className: "panels" });
    const zooms = make("div", { className: "zoom" }, select, whole, make("small", {}, "drag to zoom"));
    const legend = make("div", { className: "lines" }, find,
      make("div", { className: "sets" }, some, all, none, count), list);

    const build = () => {
      select.replaceChildren(make("option", { value: "" }, "whole stream"),
        ...data.x.marks.map((mark, i) => make("option", { value: String(i) },
          data.x.names[mark] ? `where ${data.x.names[mark]} begins` : `around boundary ${i + 1}`)),
        make("option", { value: "free", hidden: true }, "own zoom"));
      zooms.hidden = data.x.whole;
      some.hidden = data.series.every(series => series.shown);
      items = data.series.map((series, i) => {
        const box = make("input", { type: "checkbox" });
        box.addEventListener("change", () => {
          const wanted = new Set(shown);
          if (box.checked) wanted.add(series.name); else wanted.delete(series.name);
          show(wanted);
        });
        const item = make("li", {}, make("label", {}, box, swatch(series), make("span", {}, series.name)));
        const focus = on => plots.forEach(plot => plot.setSeries(on && visible(i) ? i + 1 : null, { focus: true }));
        for (const [event, on] of [["pointerenter", true], ["focusin", true], ["pointerleave", false], ["focusout", false]])
          item.addEventListener(event, () => focus(on));
        return [box, item];
      });
      list.replaceChildren(...items.map(([, item]) => item));
      legend.classList.toggle("few", data.series.length < 10);
      panels.classList.toggle("many", data.panels.length > 2);
      plots.forEach(plot => plot.destroy());
      panels.replaceChildren();
      root.replaceChildren(make("div", { className: "drawn" }, make("div", {}, zooms, panels), legend));
      plots = data.panels.map((_, panel) => drawn(panel));
      look(zoom);
      tell();
    };

    // --- a panel ---

    const told = (panel, value, unit = true) => data.panels[panel].percent
      ? `${(100 * value).toFixed(1)}${unit ? " %" : ""}` : Number(value.toPrecision(4)).toLocaleString("en");
    const where = x => {
      const rest = x - Math.floor(x), e = Math.floor(x), name = data.x.names[e] ? ` (${data.x.names[e]})` : "";
      if (data.x.whole) return `experience ${Math.round(x)}`;
      return rest < 1e-9 && e > 0 ? `at the end of experience ${e}` : `experience ${e + 1}${name}, ${(100 * rest).toFixed(1)} %`;
    };

    const drawn = panel => {
      const about = data.panels[panel];
      const place = make("div", { className: "panel" });
      const box = make("div", { className: "hover", hidden: true, role: "status" });
      panels.append(make("figure", { ariaLabel: `${data.title}: ${about.label}` },
        make("figcaption", {}, about.label), place));
      const height = () => data.panels.length > 2 ? 190 : Math.max(230, Math.min(330, 0.42 * place.clientWidth));

      let focused = null, inside = false;
      const bands = plot => {
        const { ctx, bbox } = plot, few = shown.size <= BANDS;
        ctx.save();
        ctx.beginPath();
        ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
        ctx.clip();
        data.series.forEach((series, i) => {
          const line = lines[i][panel];
          if (!visible(i) || !line || !line.half || !(few || focused === i)) return;
          ctx.globalAlpha = focused === null || focused === i ? 0.14 : 0.03;
          const at = (k, sign) => [plot.valToPos(line.x[k], "x", true),
            plot.valToPos(line.y[k] + sign * (line.half[k] || 0), "y", true)];
          ctx.beginPath();
          for (let k = 0; k < line.x.length; k++) ctx.lineTo(...at(k, 1));
          for (let k = line.x.length - 1; k >= 0; k--) ctx.lineTo(...at(k, -1));
          ctx.fillStyle = css(series.color);
          ctx.fill();
        });
        ctx.restore();
      };
      const marks = plot => {
        const { ctx, bbox } = plot, ratio = uPlot.pxRatio, { min, max } = plot.scales.x;
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = css("--faint");
        ctx.lineWidth = 0.8 * ratio;
        ctx.setLineDash([4 * ratio, 3 * ratio]);
        ctx.globalAlpha = Math.min(1, 12 / data.x.marks.filter(mark => mark >= min && mark <= max).length);  // many are a texture
        for (const mark of data.x.marks.filter(mark => mark >= min && mark <= max)) {
          const x = plot.valToPos(mark, "x", true);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
        }
        ctx.globalAlpha = 1;
        ctx.font = `${11 * ratio}px system-ui, sans-serif`;
        ctx.textAlign = "center";
        if (!data.x.whole) data.x.names.forEach((name, e) => {
          const left = plot.valToPos(Math.max(e, min), "x", true), right = plot.valToPos(Math.min(e + 1, max), "x", true);
          if (right - left > ctx.measureText(name).width) ctx.fillText(name, (left + right) / 2, bbox.top - 5 * ratio);
        });
        ctx.restore();
      };
      const hover = plot => {
        const { left, top, idx } = plot.cursor;
        box.hidden = !inside || left < 0 || idx === null;
        if (box.hidden) return;
        const x = plot.posToVal(left, "x"), near = [];
        data.series.forEach((series, i) => {
          const line = lines[i][panel];
          if (!visible(i) || !line || x < line.x[0] - 0.02 || x > line.x.at(-1) + 0.02) return;
          const k = nearest(line.x, x);
          if (line.y[k] !== null) near.push([line.y[k], line.half && line.half[k], series, i]);
        });
        const y = plot.posToVal(top, "y");
        near.sort((a, b) => Math.abs(a[0] - y) - Math.abs(b[0] - y));
        const named = near.slice(0, MOST).sort((a, b) => b[0] - a[0]);
        const rows = named.map(([y, half, series, i]) => make("tr", { className: focused === i ? "focus" : "" },
          make("td", {}, swatch(series)), make("th", {}, series.name),
          make("td", {}, told(panel, y)), make("td", {}, half === null ? "" : `± ${told(panel, half, false)}`)));
        const rest = near.length > MOST ? [make("p", {}, `and ${near.length - MOST} more`)] : [];
        box.replaceChildren(make("p", {}, where(plot.data[0][idx])), make("table", {}, ...rows), ...rest);
        const wide = plot.over.clientWidth, own = box.offsetWidth;
        const beside = left > wide / 2 ? left - 16 - own : left + 16;
        box.style.left = `${Math.max(-plot.over.offsetLeft, Math.min(beside, wide - own))}px`;  // within the panel
        box.style.top = `${Math.max(0, Math.min(top - 20, plot.over.clientHeight - box.offsetHeight))}px`;
      };
      const range = (plot, low, high) => {
        if (low === null || !isFinite(low)) return [0, 1];
        if (!about.percent) {
          const free = about.zero === false, [start, end] = zoom || full;
          const from = free && end > BEGUN ? Math.max(start, BEGUN) : start;
          if (free) [low, high] = [Infinity, -Infinity];
          for (const of of lines.map((of, i) => visible(i) && of[panel]).filter(Boolean))
            of.y.forEach((y, k) => {
              if (y === null || (free ? of.x[k] < from || of.x[k] > end : !of.half)) return;
              const half = of.half ? of.half[k] || 0 : 0;
              low = Math.min(low, y - half);
              high = Math.max(high, y + half);
            });
          if (low > high) return [0, 1];
          const room = 0.06 * (high - low || Math.abs(high) || 1);
          return [!free && low >= 0 && low < high / 2 ? 0 : low - room, high + room];
        }
        const bottom = low < 0.4 ? 0 : Math.floor(10 * low - 0.5) / 10;
        const top = high > 0.85 ? 1 : Math.min(1, Math.ceil(10 * high + 0.5) / 10);
        return [bottom - 0.02 * (top - bottom), top + 0.02 * (top - bottom)];
      };

      const axis = {
        stroke: () => css("--faint"), font: "11px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
        grid: { stroke: () => css("--line"), width: 0.7 }, ticks: { show: false },
      };
      const plot = new uPlot({
        width: place.clientWidth, height: height(), legend: { show: false }, padding: [data.x.names.length ? 20 : 10, 12, 0, 0],
        scales: { x: { time: false, range: (_, low, high) => [low, high] }, y: { range } },
        axes: [
          { ...axis, label: data.x.label, labelSize: 18, size: 26, grid: { show: false },
            incrs: data.x.whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] : undefined,
            values: (_, splits) => splits.map(split => Number(split.toFixed(4)).toLocaleString("en")) },
          { ...axis, size: 52, space: 34,
            values: (_, splits) => splits.map(v => about.percent ? `${Number((100 * v).toFixed(2))} %` : v.toLocaleString("en")) },
        ],
        series: [{}, ...data.series.map((series, i) => ({
          label: series.name, show: visible(i), stroke: () => css(series.color), width: 1.6, dash: series.dash,
          spanGaps: true, points: { show: data.x.whole, size: 5, fill: () => css(series.color) },
        }))],
        cursor: {
          y: false, focus: { prox: 14 }, hover: { skip: [null, undefined], prox: 40 }, points: { size: 7 },
          drag: { x: true, y: false, dist: 6 }, sync: { key: `charts ${scope.dataset.charts || ""}`, setSeries: false },
          bind: { dblclick: () => () => look(null) },
        },
        focus: { alpha: 0.22 },
        hooks: {
          drawAxes: [bands, marks], setCursor: [hover],
          setSeries: [(_, i, { focus }) => focus !== undefined && (focused = i === null || !focus ? null : i - 1)],
          setSelect: [({ select: of, posToVal }) => {
            if (of.width > 0) setTimeout(() => look([plot.scales.x.min, plot.scales.x.max]));
          }],
        },
      }, seen(panel), place);
      plot.over.append(box);
      plot.over.addEventListener("mouseenter", () => inside = true);
      plot.over.addEventListener("mouseleave", () => inside = !(box.hidden = true));
      Object.assign(plot.over, { tabIndex: 0, role: "group", ariaLabel: `${about.label}: values by the arrow keys` });
      plot.over.addEventListener("keydown", event => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const wide = plot.over.clientWidth, from = inside ? plot.cursor.left : step < 0 ? wide : 0;
        inside = true;
        plot.setCursor({ left: Math.max(0, Math.min(wide, from + step * (event.shiftKey ? 0.1 * wide : 4))), top: 0 });
      });
      plot.over.addEventListener("blur", () => inside = !(box.hidden = true));
      new ResizeObserver(() => {
        const wide = place.clientWidth;
        if (wide && wide !== plot.width) plot.setSize({ width: wide, height: height() });
      }).observe(place);
      return plot;
    };

    // --- new data ---

    const update = next => {
      const same = data && JSON.stringify([names(), data.panels.length, data.x.marks.length])
        === JSON.stringify([next.series.map(series => series.name), next.panels.length, next.x.marks.length]);
      const before = data && names();
      const wanted = next.series.filter(series => before && before.includes(series.name)
        ? shown.has(series.name) : series.shown).map(series => series.name);
      data = next;
      lines = read(data);
      full = data.x.range;
      shown = new Set(wanted);
      if (same) refresh(); else build();
    };
    update(given);
    for (const other of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(other).addEventListener("change", () => plots.forEach(plot => plot.redraw(false)));
    return { update };
  };
})();
for (const figure of document.querySelectorAll("figure.chart"))
  clbenchChart(figure.querySelector("div.chart"), JSON.parse(figure.querySelector("script").textContent));
