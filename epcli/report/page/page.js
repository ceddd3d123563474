"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);

  // --- the stored numbers -------------------------------------------------------------------------------------------
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const array = (Kind, text) => (text === null ? null : new Kind(bytes(text).buffer));
  const VIDEO = 1, AUDIO = 2;
  const [from, to] = data.range;
  const timed = to > from;
  const kind = array(Uint8Array, data.tokens.modality);
  const begin = array(Float32Array, data.tokens.start), end = array(Float32Array, data.tokens.end);
  const frameOf = array(Int16Array, data.tokens.frame), rowOf = array(Int16Array, data.tokens.row);
  const columnOf = array(Int16Array, data.tokens.column);
  const n = kind.length, frames = data.frames, rows = data.grid.rows, columns = data.grid.columns;
  const total = { [VIDEO]: 0, [AUDIO]: 0 };
  for (const each of kind) total[each] += 1;
  const there = [VIDEO, AUDIO].filter((each) => total[each] > 0);
  const WORD = { [VIDEO]: "picture", [AUDIO]: "sound" };
  const named = data.names_pictures; // the picture's pieces are names of what was observed in it, not cells
  const ONE = { [VIDEO]: named ? "piece of what was seen" : "cell of a picture", [AUDIO]: "moment of sound" };
  const MANY = { [VIDEO]: named ? "pieces of what was seen" : "cells of pictures", [AUDIO]: "moments of sound" };
  const UNIT = named ? "pieces" : "cells"; // of one picture
  const piece = (which, many) => (many === 1 ? ONE : MANY)[which];
  const runs = data.runs.map((run) => ({
    ...run,
    kept: array(Uint8Array, run.kept), depth: array(Uint8Array, run.depth), scores: array(Float32Array, run.scores), evidence: array(Float32Array, run.evidence),
    order: null, at: null, then: null, // best first; what is kept at the slider's share
  }));

  // The rule of epcli/sieve/select.py: min(n, max(1, ceil(n * share))), the earlier of equal scores first.
  const keepCount = (count, share) => Math.min(count, Math.max(1, Math.ceil(count * share)));
  const bestFirst = (run) => {
    const order = Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => run.scores[b] - run.scores[a] || a - b);
    if (!run.per_modality) return order;
    // Each kind among its own, the places divided by Sainte-Lague's highest averages (epcli/sieve/selectors.py).
    const rank = { [VIDEO]: 0, [AUDIO]: 0 }, claim = new Float32Array(n);
    for (const i of order) claim[i] = total[kind[i]] / (2 * rank[kind[i]]++ + 1);
    return order.sort((a, b) => claim[b] - claim[a] || kind[a] - kind[b]);
  };
  const keptAt = (run, percent) => {
    if (run.at !== percent) {
      run.order ??= bestFirst(run);
      run.then = new Uint8Array(n);
      for (const i of run.order.subarray(0, keepCount(n, percent / 100))) run.then[i] = 1;
      run.at = percent;
    }
    return run.then;
  };

  // --- what is shown now --------------------------------------------------------------------------------------------
  const state = { run: 0, percent: null, at: from, dim: true, heat: false };
  const chosen = (run) => (state.percent === null || !run.scores ? run.kept : keptAt(run, state.percent));
  const tally = (kept) => {
    const found = { [VIDEO]: 0, [AUDIO]: 0 };
    kept.forEach((yes, i) => { if (yes) found[kind[i]] += 1; });
    return found;
  };
  let now = runs[0].kept, count = tally(now);

  // --- small helpers ------------------------------------------------------------------------------------------------
  const make = (name, content = "", className = "") => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (Array.isArray(content)) node.append(...content);
    else node.textContent = content;
    return node;
  };
  // As Python writes them, in the other views: a half that is exact goes to the even digit.
  const fixed0 = (value) => ((2 * value) % 4 === 1 ? value - 0.5 : value).toFixed(0);
  const fixed1 = (value) => ((4 * value) % 4 === 1 ? value - 0.05 : value).toFixed(1);
  const clock = (seconds) => {
    const tenths = Math.round(10 * fixed1(seconds)), whole = Math.floor(tenths / 10), tenth = tenths % 10;
    const h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60, s = String(whole % 60).padStart(2, "0");
    return (h ? `${h}:${String(m).padStart(2, "0")}` : `${m}`) + `:${s}` + (tenth ? `.${tenth}` : "");
  };
  const number = (value) => value.toLocaleString("en-US");
  const percent = (part, whole) => (whole ? `${fixed1((part / whole) * 100)}%` : "–");
  const size = (value) => {
    for (const unit of ["B", "kB", "MB"]) {
      if (value < 999.5) return `${fixed0(value)} ${unit}`;
      value /= 1000;
    }
    return `${fixed1(value)} GB`;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const fit = (canvas, height) => {
    const ratio = Math.min(window.devicePixelRatio || 1, 2), width = Math.max(canvas.clientWidth, 40);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    return [pen, width, height];
  };

  // Tokens of each frame, and each column's share kept by the tokens' time in it (epcli/report/figures.py).
  const cellsOf = frames.map(() => []);
  kind.forEach((each, i) => { if (each === VIDEO) cellsOf[frameOf[i]].push(i); });
  const overTime = (kept, which, width) => {
    const all = new Float64Array(width), some = new Float64Array(width), step = (to - from) / width;
    for (let i = 0; i < n; i++) {
      if (kind[i] !== which) continue;
      const first = Math.max(0, Math.floor((begin[i] - from) / step));
      const last = Math.min(width - 1, Math.floor((end[i] - from) / step));
      for (let c = first; c <= last; c++) {
        const inside = Math.min(end[i], from + (c + 1) * step) - Math.max(begin[i], from + c * step);
        if (inside > 0) { all[c] += inside; if (kept[i]) some[c] += inside; }
      }
    }
    return some.map((value, c) => (all[c] > 1e-9 ? value / all[c] : NaN));
  };

  // --- pictures -----------------------------------------------------------------------------------------------------
  const pictures = frames.map((frame) => {
    if (!frame.src) return null;
    const picture = new Image();
    picture.decoding = "async";
    picture.addEventListener("load", () => paint(true), { once: true });
    picture.src = frame.src;
    return picture;
  });
  const aspect = data.aspect || 16 / 9;
  const anyKept = (tokens, kept) => tokens.some((i) => kept[i]);
  /** Boxes and names: solid if read, dashed if dropped, pink if they carried the answer. */
  const drawSights = (pen, index, width, height, run) => {
    const kept = chosen(run), most = state.heat ? run.evidence.reduce((a, b) => Math.max(a, b), 0) : 0;
    const sights = frames[index].sights.map((sight) => ({
      ...sight, read: anyKept(sight.tokens, kept),
      carried: most > 0 && sight.tokens.some((i) => run.evidence[i] > 0.15 * most),
    })).filter((sight) => sight.read || state.dim).sort((a, b) => a.carried - b.carried || a.read - b.read);
    if (state.dim && sights.length && !sights.some((sight) => sight.read)) {
      pen.fillStyle = "rgba(8, 8, 14, 0.7)"; pen.fillRect(0, 0, width, height);
    }
    const letters = Math.max(11, Math.round(height / 24));
    pen.font = `600 ${letters}px system-ui, sans-serif`; pen.textBaseline = "top";
    let corner = 3;
    for (const sight of sights) {
      const shade = sight.carried ? "#ff4d8d" : sight.read ? "#6cb2ff" : "#b9b9c3";
      let x = 4, y = corner;
      if (sight.box) {
        const [left, top, right, bottom] = sight.box;
        pen.lineWidth = sight.read ? Math.max(2, width / 320) : 1;
        pen.strokeStyle = shade; pen.setLineDash(sight.read ? [] : [5, 4]);
        pen.strokeRect(left * width + 1, top * height + 1, Math.max(1, (right - left) * width - 2), Math.max(1, (bottom - top) * height - 2));
        pen.setLineDash([]);
        x = left * width + 3; y = top * height + 3;
      } else corner += letters + 5;
      if (!sight.name) continue;
      const wide = pen.measureText(sight.name).width;
      x = Math.max(2, Math.min(x, width - wide - 5)); y = Math.max(2, Math.min(y, height - letters - 4));
      pen.fillStyle = "rgba(12, 12, 16, 0.72)"; pen.fillRect(x - 2, y - 1, wide + 5, letters + 4);
      pen.fillStyle = shade; pen.fillText(sight.name, x, y);
    }
  };
  const drawFrame = (canvas, index, width, detail, run = runs[state.run]) => {
    const height = Math.round(width / aspect);
    canvas.width = width; canvas.height = height;
    const pen = canvas.getContext("2d"), picture = pictures[index];
    if (picture && picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0, width, height);
    else { pen.fillStyle = "#4b5563"; pen.fillRect(0, 0, width, height); }
    const evidence = run.evidence, kept = chosen(run);
    if (named) { drawSights(pen, index, width, height, run); return; }
    const w = width / columns, h = height / rows;
    const most = state.heat ? evidence.reduce((a, b) => Math.max(a, b), 0) : 0;
    for (const i of cellsOf[index]) {
      const x = columnOf[i] * w, y = rowOf[i] * h;
      if (state.dim && !kept[i]) { pen.fillStyle = "rgba(8, 8, 14, 0.78)"; pen.fillRect(x, y, w + 0.5, h + 0.5); }
      if (state.dim && kept[i] && run.depth && run.kept[i]) { // left inside the language model: darker the sooner
        pen.fillStyle = `rgba(8, 8, 14, ${0.6 * (1 - run.depth[i] / 255)})`; pen.fillRect(x, y, w + 0.5, h + 0.5);
      }
      if (state.dim && kept[i] && detail) {
        pen.strokeStyle = "rgba(255, 255, 255, 0.55)"; pen.lineWidth = 1; pen.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
      }
      if (most > 0 && evidence[i] > 0.15 * most) {
        pen.strokeStyle = "#ff4d8d"; pen.lineWidth = Math.max(2, w / 14) * (0.4 + 0.6 * evidence[i] / most);
        pen.strokeRect(x + pen.lineWidth / 2, y + pen.lineWidth / 2, w - pen.lineWidth, h - pen.lineWidth);
      }
    }
  };
  const frameAt = (time) => {
    let best = 0;
    frames.forEach((frame, i) => { if (frame.start <= time + 1e-6) best = i; });
    return best;
  };
  const keptIn = (index, kept = now) => cellsOf[index].reduce((sum, i) => sum + kept[i], 0);

  // --- the timeline -------------------------------------------------------------------------------------------------
  const lanes = [];
  const lane = (host, label, height, draw, className = "") => {
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    host.append(make("div", [make("span", label), canvas], `row ${className}`));
    const entry = { canvas, height, draw, label };
    lanes.push(entry);
    return entry;
  };
  const drawShare = (which, keptNow) => (pen, width, height) => {
    const shares = overTime(keptNow(), which, Math.round(width));
    pen.fillStyle = colour(WORD[which]);
    shares.forEach((share, x) => {
      if (share > 0) { const tall = Math.max(2, share * height); pen.fillRect(x, height - tall, 1, tall); }
    });
  };
  const bitmap = data.mel ? new Image() : null;
  if (bitmap) { bitmap.addEventListener("load", () => paint(), { once: true }); bitmap.src = data.mel; }
  const wave = data.wave ? array(Int8Array, data.wave) : null;
  const soundEnd = data.sound_end;
  const heard = (width) => {
    const shares = overTime(now, AUDIO, Math.round(width));
    return (x) => shares[Math.min(shares.length - 1, Math.max(0, Math.floor(x)))] > 0;
  };
  const drawWave = (pen, width, height) => {
    const is = heard(width), points = wave.length / 2, wide = (width * (soundEnd - from)) / (to - from);
    const on = colour("sound"), off = colour("drop");
    for (let x = 0; x < wide; x++) {
      const a = Math.floor((x / wide) * points), b = Math.max(a + 1, Math.floor(((x + 1) / wide) * points));
      let low = 127, high = -127;
      for (let p = a; p < b && p < points; p++) { low = Math.min(low, wave[2 * p]); high = Math.max(high, wave[2 * p + 1]); }
      const top = height / 2 - (high / 127) * (height / 2 - 1), deep = Math.max(1, ((high - low) / 127) * (height / 2 - 1));
      pen.fillStyle = is(x) ? on : off;
      pen.fillRect(x, top, 1, deep);
    }
  };
  const drawMel = (pen, width, height) => {
    const wide = (width * (soundEnd - from)) / (to - from), is = heard(width);
    if (!bitmap.complete || !bitmap.naturalWidth) return;
    pen.drawImage(bitmap, 0, 0, wide, height);
    pen.globalCompositeOperation = "source-atop"; // the picture is only opacity: its colour says what was read
    const on = colour("sound"), off = colour("drop");
    for (let x = 0; x < width; x++) { pen.fillStyle = is(x) ? on : off; pen.fillRect(x, 0, 1, height); }
    pen.globalCompositeOperation = "source-over";
  };
  const drawEvidence = (pen, width, height) => {
    const run = runs[state.run], sums = new Float64Array(Math.round(width / 3) + 1), step = (to - from) / (sums.length - 1);
    for (let i = 0; i < n; i++) {
      if (!run.evidence[i]) continue;
      const first = Math.floor((begin[i] - from) / step), last = Math.min(sums.length - 1, Math.floor((end[i] - from) / step));
      for (let c = first; c <= last; c++) {
        const inside = Math.min(end[i], from + (c + 1) * step) - Math.max(begin[i], from + c * step);
        if (inside > 0) sums[c] += (run.evidence[i] * inside) / (end[i] - begin[i]);
      }
    }
    const most = sums.reduce((a, b) => Math.max(a, b), 1e-9);
    pen.fillStyle = colour("mark");
    sums.forEach((sum, c) => { const tall = (sum / most) * height; pen.fillRect(c * 3, height - tall, 2.4, tall); });
  };
  const drawAxis = (pen, width) => {
    const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200];
    const step = steps.find((s) => (to - from) / s <= width / 70) || 14400;
    pen.fillStyle = colour("quiet"); pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "top";
    for (let time = Math.ceil(from / step - 1e-9) * step; time < to; time += step) {
      const x = ((time - from) / (to - from)) * width;
      pen.fillRect(x, 0, 1, 4);
      if (x + 34 < width) pen.fillText(clock(time), x + 3, 3);
    }
  };
  if (timed) {
    const host = $("rows");
    lane(host, "", 18, drawAxis, "axis");
    for (const which of there) lane(host, `${WORD[which]} read`, 34, drawShare(which, () => now));
    if (wave && total[AUDIO]) lane(host, "waveform", 46, drawWave);
    if (bitmap && total[AUDIO]) lane(host, "tones, low to high", 64, drawMel);
    if (runs.some((run) => run.moments)) lane(host, "carried the answer", 26, drawEvidence);
    $("timeline-note").textContent = "Height: share of the pieces of that moment that were read. "
      + (wave ? "Coloured sound was read, grey was dropped. " : "")
      + "Click, or use the arrow keys, to go to a moment" + (data.sound ? "; Enter plays it." : ".");
  } else $("timeline").hidden = true;

  /** The moment that a question's view opens at: what carried its answer most. */
  const begins = (run) => (run.moments && run.moments.length ? run.moments[0].peak_s : frames.length ? frames[0].time : from);

  // --- comparing runs -----------------------------------------------------------------------------------------------
  if (runs.length > 1) {
    $("compare").hidden = false;
    $("runs").hidden = false;
    runs.forEach((run, index) => {
      const button = make("button", run.name);
      button.type = "button";
      button.addEventListener("click", () => {
        if (run.question !== runs[state.run].question) state.at = begins(run); // another question: another moment
        state.run = index;
        refresh();
      });
      $("runs").append(button);
      const host = make("div"), note = make("p", "", "quiet");
      host.append(make("p", [make("b", run.name), document.createTextNode(` — ${run.answer || "(no answer)"}`)]), note);
      const beside = make("div", [host], frames.length ? "lane pictured" : "lane");
      if (frames.length) {
        run.picture = make("canvas");
        run.picture.setAttribute("role", "img");
        beside.prepend(run.picture);
      }
      $("compare-list").append(beside);
      run.note = note;
      if (timed) for (const which of there) lane(host, WORD[which], 22, drawShare(which, () => chosen(run)));
    });
  }

  // --- painting -----------------------------------------------------------------------------------------------------
  let waiting = 0;
  const paint = (all = false) => {
    if (all) dirty = true;
    if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; paintNow(); });
  };
  let dirty = true;
  const thumbs = [];
  const drawThumb = (index) => {
    const { canvas, note, button } = thumbs[index];
    drawFrame(canvas, index, 200, false);
    const kept = keptIn(index), of = cellsOf[index].length;
    note.textContent = `${kept} of ${of}`;
    button.setAttribute("aria-label", `${clock(frames[index].time)}, ${kept} of ${of} ${UNIT} read`);
  };
  const seen = "IntersectionObserver" in window && frames.length > 80 // few are drawn at once, many as they come in sight
    ? new IntersectionObserver((entries) => {
        for (const entry of entries) {
          const thumb = thumbs[Number(entry.target.dataset.index)];
          thumb.visible = entry.isIntersecting;
          if (thumb.visible && thumb.stale) { thumb.stale = false; drawThumb(Number(entry.target.dataset.index)); }
        }
      }, { rootMargin: "200px" })
    : null;
  frames.forEach((frame, index) => {
    const canvas = make("canvas"), note = make("em"), button = make("button");
    button.type = "button";
    button.dataset.index = index;
    button.append(canvas, make("span", [document.createTextNode(timed ? clock(frame.time) : "the picture"), note]));
    button.addEventListener("click", () => { go(frame.time); if (data.sound) playAround(frame.time); });
    $("frames").append(button);
    thumbs.push({ canvas, note, button, stale: true, visible: !seen });
    if (seen) seen.observe(button);
  });
  $("frames-part").hidden = !frames.length;
  $("observed-part").hidden = !data.observed.length;
  if (named) $("legend").textContent = "The model reads names of what was observed, each with its place. Solid boxes were read. "
    + "Dashed ones were dropped: the model never read them. A picture is dark if nothing of it was read.";
  for (const each of [$("stage"), $("legend"), $("dim").parentElement, $("heat").parentElement]) each.hidden = !frames.length;

  const paintCursor = () => {
    if (!timed) return;
    const share = (state.at - from) / (to - from);
    $("cursor").style.left = `${100 * share}%`;
    const area = $("cursor-area");
    area.setAttribute("aria-valuemin", from); area.setAttribute("aria-valuemax", to);
    area.setAttribute("aria-valuenow", state.at.toFixed(2));
    area.setAttribute("aria-valuetext", `${clock(state.at)}. ${describe(state.at)}`);
  };
  const describe = (time) => {
    const facts = [];
    if (frames.length) {
      const index = frameAt(time), kept = keptIn(index), all = cellsOf[index].length;
      const part = kept === 0 ? "nothing" : kept === all ? "all" : `${kept} of ${all} ${UNIT}`;
      facts.push(`${part} of this picture ${kept > 0 && kept < all ? "were" : "was"} read`);
      for (const [read, word] of [[true, "read"], [false, "dropped"]]) {
        const many = new Map();
        for (const each of frames[index].sights) {
          if (each.name && anyKept(each.tokens, now) === read) many.set(each.name, (many.get(each.name) || 0) + 1);
        }
        const names = [...many].map(([name, times]) => (times > 1 ? `${name} × ${times}` : name)).join(", ");
        if (names) facts.push(`${word}: ${names}`);
      }
    }
    if (total[AUDIO]) {
      let yes = false;
      for (let i = 0; i < n; i++) if (kind[i] === AUDIO && begin[i] <= time && time < end[i] && now[i]) yes = true;
      facts.push(`the sound here was ${yes ? "read" : "dropped"}`);
    }
    return facts.join("; ");
  };
  const paintNow = () => {
    if (frames.length) {
      const index = frameAt(state.at), canvas = $("frame");
      drawFrame(canvas, index, Math.max(480, Math.min(960, canvas.clientWidth * 1.5 | 0)), true);
      const when = timed ? `${clock(state.at)} · ` : "";
      $("frame-note").textContent = when + describe(state.at);
      canvas.setAttribute("aria-label", `Frame at ${clock(frames[index].time)}: ${keptIn(index)} of ${cellsOf[index].length} ${UNIT} read, the others ${named ? "dashed" : "dimmed"}`);
      thumbs.forEach((thumb, i) => thumb.button.setAttribute("aria-current", i === index ? "true" : "false"));
    }
    paintCursor();
    if (frames.length) for (const run of runs) if (run.picture) {
      const index = frameAt(state.at), said = `${keptIn(index, chosen(run))} of ${cellsOf[index].length} ${UNIT} read`;
      drawFrame(run.picture, index, 320, false, run);
      run.picture.setAttribute("aria-label", `${run.name}: frame at ${clock(frames[index].time)}, ${said}`);
    }
    if (!dirty) return;
    dirty = false;
    for (const each of lanes) {
      const [pen, width, height] = fit(each.canvas, each.height);
      pen.clearRect(0, 0, width, height);
      each.draw(pen, width, height);
    }
    thumbs.forEach((thumb, i) => { thumb.stale = true; if (thumb.visible) { thumb.stale = false; drawThumb(i); } });
    paintScores();
  };

  const paintScores = () => {
    const run = runs[state.run], canvas = $("scores");
    canvas.hidden = !run.scores;
    if (!run.scores) { $("scores-note").textContent = run.no_scores; return; }
    const [pen, width, height] = fit(canvas, 150);
    let low = Infinity, high = -Infinity;
    for (const score of run.scores) { if (score < low) low = score; if (score > high) high = score; }
    const bins = 36, step = (high - low) / bins || 1, yes = new Float64Array(bins), no = new Float64Array(bins);
    let edge = Infinity;
    run.scores.forEach((score, i) => {
      const bin = Math.min(bins - 1, Math.floor((score - low) / step));
      if (now[i]) { yes[bin] += 1; edge = Math.min(edge, score); } else no[bin] += 1;
    });
    let most = 1;
    for (let b = 0; b < bins; b++) most = Math.max(most, yes[b] + no[b]);
    const w = width / bins, floor = height - 16;
    for (let b = 0; b < bins; b++) {
      const a = (yes[b] / most) * (floor - 6), d = (no[b] / most) * (floor - 6);
      pen.fillStyle = colour("drop"); pen.fillRect(b * w + 0.5, floor - d, w - 1, d);
      pen.fillStyle = colour("focus"); pen.fillRect(b * w + 0.5, floor - d - a, w - 1, a);
    }
    pen.fillStyle = colour("quiet"); pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "bottom";
    pen.fillText(low.toFixed(1), 0, height); pen.textAlign = "right"; pen.fillText(high.toFixed(1), width, height);
    pen.textAlign = "left";
    const sum = count[VIDEO] + count[AUDIO];
    const which = run.per_modality ? "highest of each kind" : `highest, from ${edge.toFixed(2)} up,`;
    $("scores-note").textContent = `${number(n)} scores; the ${number(sum)} ${which} are read (coloured).`;
    canvas.setAttribute("aria-label", `Histogram of ${n} scores from ${low.toFixed(2)} to ${high.toFixed(2)}; the ${sum} highest are read`);
  };

  const STAGE_COLOURS = ["#868e96", "#ced4da", "#4dabf7", "#f59f00", "#12b886", "#7048e8", "#e64980", "#fa5252", "#94d82d"];
  const table = (host, entries) => {
    host.replaceChildren(...entries.map(([head, ...cells]) => {
      const heading = make("th", Array.isArray(head) ? head : String(head));
      heading.scope = "row";
      return make("tr", [heading, ...cells.map((cell) => (cell instanceof Node ? cell : make("td", String(cell))))]);
    }));
  };
  const meter = (share, className) => {
    const fill = make("i"), cell = make("td", [make("div", [fill])], `meter ${className}`);
    fill.style.width = `${100 * share}%`;
    return cell;
  };

  const refresh = () => {
    const run = runs[state.run];
    now = chosen(run);
    count = tally(now);
    dirty = true;
    const sum = count[VIDEO] + count[AUDIO], own = tally(run.kept), ownSum = own[VIDEO] + own[AUDIO];
    [...$("runs").children].forEach((button, i) => button.setAttribute("aria-pressed", i === state.run ? "true" : "false"));
    $("question").textContent = run.question;
    $("answer").textContent = run.answer || "(no answer)";
    const marked = (which, text) => make("b", text, which === VIDEO ? "p" : "s");
    const listed = (each) => there.flatMap((which, i) => [i ? " and " : "", marked(which, each(which))]);
    const told = ["The clip was cut into ", ...listed((which) => `${number(total[which])} ${piece(which, total[which])}`), ". "];
    if (ownSum === n) told.push("The model read all of them. Asked with --keep 0.1 it reads the tenth that matters most.");
    else {
      told.push(`Of these ${number(n)} pieces the model read only ${number(ownSum)} (${percent(ownSum, n)}): `);
      told.push(...listed((which) => `${number(own[which])} ${piece(which, own[which])}`), ". ");
      told.push(run.chosen_by, " The rest was thrown away before it answered.");
    }
    $("story").replaceChildren(...told.map((part) => (part instanceof Node ? part : document.createTextNode(part))));
    $("warnings").replaceChildren(...run.warnings.map((text) => make("li", text)));

    const moments = run.moments || [];
    $("why").hidden = run.moments === null;
    $("why-none").hidden = moments.length > 0;
    $("why-none").textContent = "Nothing stands out: the model looked all over what it read.";
    $("why-rule").textContent = run.rule
      ? `Where the model looked while it wrote its answer: a hint at the reason, not a proof. Found by: ${run.rule}.` : "";
    $("moments").replaceChildren(...moments.map((moment) => {
      const fill = make("i"), button = make("button", [
        make("span", `${fixed0(100 * moment.share)}%`, "share"), make("span", moment.label), make("div", [fill], "bar"),
      ], moment.modality);
      fill.style.width = `${100 * moment.share}%`;
      button.type = "button";
      button.addEventListener("click", () => {
        go(moment.peak_s);
        $("stage").scrollIntoView({ block: "nearest", behavior: "smooth" });
        if (data.sound && moment.modality === "audio") playSpan(moment.start_s - 0.3, moment.end_s + 0.3);
      });
      return make("li", [button]);
    }));

    const slider = $("keep"), shown = state.percent === null ? (100 * ownSum) / n : state.percent;
    slider.disabled = !run.scores;
    slider.value = Math.round(shown);
    const exact = state.percent === null ? percent(ownSum, n) : `${state.percent}%`;
    $("keep-now").textContent = exact;
    slider.setAttribute("aria-valuetext", `${exact}, ${sum} of ${n} pieces`);
    $("keep-back").disabled = state.percent === null;
    $("keep-note").textContent = run.scores
      ? `${number(sum)} of ${number(n)} pieces` + (state.percent === null ? ", as in this run." : `; the answer was given with ${number(ownSum)}.`)
      : run.no_scores;
    const firsts = chosen(runs[0]);
    for (const other of runs) if (other.note) {
      const kept = chosen(other), c = tally(kept), all = c[VIDEO] + c[AUDIO];
      const both = kept.reduce((sum_, yes, i) => sum_ + (yes && firsts[i]), 0);
      other.note.textContent = `${number(all)} of ${number(n)} pieces (${percent(all, n)}): `
        + there.map((which) => `${number(c[which])} of ${WORD[which]}`).join(", ")
        + (other === runs[0] ? "" : `; ${fixed0((both / Math.max(all, 1)) * 100)}% of them are read in the first line too`);
    }

    table($("observed"), data.observed
      .map((each) => [each, each.tokens.reduce((sum_, i) => sum_ + now[i], 0)])
      .sort(([a, kept], [b, other]) => other - kept || b.tokens.length - a.tokens.length)
      .map(([each, kept]) => [each.name, meter(kept / each.tokens.length, each.modality === VIDEO ? "p" : "s"),
        `${number(kept)} of ${number(each.tokens.length)}`, WORD[each.modality], each.when]));
    table($("budget"), [
      ...there.map((which) => [WORD[which], meter(count[which] / total[which], which === VIDEO ? "p" : "s"),
        `${number(count[which])} of ${number(total[which])}`, percent(count[which], total[which])]),
      ["text", meter(1, "t"), `${number(run.text.kept)} of ${number(run.text.total)}`, percent(run.text.kept, run.text.total)],
    ]);
    const spent = run.timings.filter(([name, seconds]) => name !== "total" && seconds > 0);
    const whole = spent.reduce((total_, [, seconds]) => total_ + seconds, 0) || 1;
    $("time-bar").replaceChildren(...spent.map(([, seconds], i) => {
      const part = make("div");
      part.style.width = `${(100 * seconds) / whole}%`;
      part.style.background = STAGE_COLOURS[i % STAGE_COLOURS.length];
      return part;
    }));
    table($("times"), run.timings.filter(([name, seconds]) => seconds > 0 || name === "total").map(([name, seconds]) => {
      const dot = make("span", "", "dot"), i = spent.findIndex(([other]) => other === name);
      dot.style.background = i < 0 ? "none" : STAGE_COLOURS[i % STAGE_COLOURS.length];
      return [[dot, document.createTextNode(name)], `${seconds.toFixed(2)} s`];
    }));
    $("memory").textContent = `Memory: ${size(run.memory)} used; foreseen were ${size(data.planned)}.`;
    $("command").replaceChildren(...run.command.split(/(--[a-z-]+)/).map((part, i) => make("span", part, i % 2 ? "flag" : "")));
    table($("settings"), run.settings);
    paint(true);
  };

  // --- going somewhere, and hearing it ------------------------------------------------------------------------------
  const sound = $("sound");
  let stopAt = Infinity;
  const go = (time) => { state.at = Math.min(to, Math.max(from, time)); paint(); };
  const playSpan = (start, stop) => {
    if (!data.sound) return;
    sound.currentTime = Math.max(0, start - from);
    stopAt = stop - from;
    sound.play().catch(() => {});
  };
  const playAround = (time) => playSpan(time - 1, time + 1);
  if (data.sound) {
    sound.src = data.sound;
    sound.addEventListener("timeupdate", () => {
      if (sound.currentTime >= stopAt) { sound.pause(); return; }
      go(from + sound.currentTime);
    });
    const shows = () => {
      $("play").textContent = sound.paused ? "Play" : "Pause";
      $("play").setAttribute("aria-pressed", sound.paused ? "false" : "true");
    };
    for (const name of ["play", "pause", "ended"]) sound.addEventListener(name, shows);
    $("play").addEventListener("click", () => {
      if (!sound.paused) { sound.pause(); return; }
      stopAt = Infinity;
      sound.currentTime = state.at >= to - 0.05 ? 0 : state.at - from;
      sound.play().catch(() => {});
    });
    $("around").addEventListener("click", () => playAround(state.at));
  } else { $("play").hidden = true; $("around").hidden = true; }

  const area = $("cursor-area");
  const timeAt = (event) => {
    const box = area.getBoundingClientRect();
    return from + ((event.clientX - box.left) / box.width) * (to - from);
  };
  area.addEventListener("pointerdown", (event) => { area.setPointerCapture(event.pointerId); go(timeAt(event)); });
  area.addEventListener("pointermove", (event) => { if (event.buttons) go(timeAt(event)); });
  area.addEventListener("pointerup", (event) => playAround(timeAt(event)));
  const stride = frames.length > 1 ? (to - from) / frames.length : Math.max((to - from) / 50, 0.1);
  area.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -stride, ArrowDown: -stride, ArrowRight: stride, ArrowUp: stride, PageUp: 5 * stride, PageDown: -5 * stride };
    if (event.key in moves) go(state.at + moves[event.key]);
    else if (event.key === "Home") go(from);
    else if (event.key === "End") go(to);
    else if (event.key === "Enter" || event.key === " ") playAround(state.at);
    else return;
    event.preventDefault();
  });
  $("keep").addEventListener("input", () => { state.percent = Number($("keep").value); refresh(); });
  $("keep-back").addEventListener("click", () => { state.percent = null; refresh(); });
  $("dim").addEventListener("change", () => { state.dim = $("dim").checked; paint(true); });
  $("heat").addEventListener("change", () => { state.heat = $("heat").checked; paint(true); });
  window.addEventListener("resize", () => paint(true));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint(true));

  $("name").textContent = data.name;
  $("facts").textContent = data.facts.join(" · ");
  $("made").textContent = data.made;
  state.at = begins(runs[0]);
  refresh();
})();
