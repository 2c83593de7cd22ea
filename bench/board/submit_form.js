// The form of a submission: sends the file, checks words while they are written, shows the ticket.
// Whatever a server says is shown as text, never as markup.
const LARGEST_HASHED = 64 * 2 ** 20; // bytes; a browser hashes in memory alone
const PAUSE = 400; // ms without a key before the words are checked
const AGAIN = 5000; // ms before a file that waits is asked for again

export default function ({ parentElement: root, data }) {
  const form = root.querySelector("form");
  const one = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const names = one("#names");
  names.replaceChildren(...data.names.map((name) => new Option("", name)));
  if (form.dataset.ready) return;
  form.dataset.ready = "yes";

  const above = location.pathname.replace(/[^/]*\/?$/, "");
  const file = { sha256: "", name: "", sending: null };
  const touched = new Set();
  let timer = 0;
  one(".token").hidden = !data.token;

  // ------------------------------------------------------------ what the server says

  const headers = (more) => {
    const token = one("#f-token").value.trim();
    return token ? { ...more, Authorization: `Bearer ${token}` } : more;
  };

  async function post(path, said) {
    const answer = await fetch(`${above}submissions${path}`, {
      method: "POST",
      headers: headers({ "Content-Type": "application/json" }),
      body: JSON.stringify(said),
    });
    return { status: answer.status, ...(await answer.json()) };
  }

  const unreachable = {
    status: 0, code: "away", reason: "the server does not answer", remedy: "Try again.",
  };

  const sentence = (said) => `${said.reason}. ${said.remedy}`.replace(/^./, (c) => c.toUpperCase());

  // ------------------------------------------------------------ the file

  function tell(text, kind = "") {
    const line = one(".file");
    line.textContent = text;
    line.className = `file ${kind}`;
  }

  function looked(said) {
    if (said.fits) {
      tell(`${file.name}: ${said.fits}${said.note ? `; ${said.note}` : ""}`, "good");
      const box = one('[data-field="dataset"]');
      if (!box.value && said.datasets.length) {
        box.value = said.datasets[0];
        choseDataset();
      }
    } else if (said.code === "busy" && file.sha256) {
      tell(`${file.name} is here. ${sentence(said)}`);
      const asked = file.sha256;
      setTimeout(() => asked === file.sha256 && look(), AGAIN);
    } else {
      file.sha256 = "";
      tell(sentence(said), "bad");
    }
  }

  async function look() {
    const asked = { sha256: file.sha256, ask: { file_name: file.name.slice(0, 100) } };
    looked(await post("/look", asked).catch(() => unreachable));
  }

  async function hashed(chosen) {
    if (!globalThis.crypto?.subtle || chosen.size > LARGEST_HASHED) return "";
    const digest = await crypto.subtle.digest("SHA-256", await chosen.arrayBuffer());
    return [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("");
  }

  async function take(chosen) {
    if (!chosen) return;
    file.sending?.abort();
    Object.assign(file, { sha256: "", name: chosen.name, sending: null });
    tell(`${chosen.name}, ${chosen.size.toLocaleString("en")} bytes`);
    const sha256 = await hashed(chosen);
    if (sha256) {
      const asked = { sha256, ask: { file_name: chosen.name.slice(0, 100) } };
      const said = await post("/look", asked).catch(() => unreachable);
      if (said.fits || said.code === "busy") {
        file.sha256 = sha256;
        return looked(said);
      }
    }
    send(chosen, sha256);
  }

  function send(chosen, sha256) {
    const bar = one("progress");
    const call = new XMLHttpRequest();
    file.sending = call;
    call.open("PUT", `${above}submissions/file?name=${encodeURIComponent(chosen.name.slice(0, 100))}`);
    const more = sha256 ? { "X-Content-SHA256": sha256 } : {};
    for (const [name, value] of Object.entries(headers(more))) call.setRequestHeader(name, value);
    call.upload.onprogress = (e) => { bar.value = e.loaded / e.total; };
    call.upload.onload = () => tell(`${chosen.name} has arrived; it is looked at`);
    call.onloadend = () => {
      bar.hidden = true;
      file.sending = null;
      let said = unreachable;
      try { said = JSON.parse(call.responseText); } catch { /* it is not there */ }
      file.sha256 = said.sha256 || "";
      looked(said);
    };
    call.onabort = () => { call.onloadend = null; };
    bar.hidden = false;
    bar.value = 0;
    call.send(chosen);
  }

  one("input[type=file]").onchange = (e) => take(e.target.files[0]);
  const drop = one(".drop");
  drop.ondragover = (e) => { e.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (e) => { e.preventDefault(); drop.classList.remove("over"); take(e.dataTransfer.files[0]); };

  // ------------------------------------------------------------ the words

  const valueOf = (field) => one(`[data-field="${field}"]`).value.trim();

  function share(text) { // 52.3 % as 0.523; what is no number goes as it is and is refused by name
    const found = text.replace("%", "").replace(",", ".").trim();
    return found === "" ? null : Number.isFinite(Number(found)) ? Number(found) / 100 : text;
  }

  function words() {
    const said = {};
    for (const box of all("[data-field]")) {
      const name = box.dataset.field;
      if (!name.includes(".") && !["contact", "secret"].includes(name)) said[name] = valueOf(name);
    }
    for (const claim of ["claimed_clean", "claimed_robust"]) said[claim] = share(said[claim]);
    const direction = valueOf("awp.direction");
    said.awp = direction === "" ? null : direction === "none" ? "none" : { direction };
    if (said.awp?.direction) {
      for (const part of ["gamma", "warm_up"]) {
        if (valueOf(`awp.${part}`)) said.awp[part] = valueOf(`awp.${part}`);
      }
    }
    said.consent = one("input[name=consent]:checked")?.value || "";
    return { sha256: file.sha256, form: said, contact: valueOf("contact") };
  }

  function complain(errors, everywhere) {
    let first = null;
    for (const box of all("[data-field]")) {
      const name = box.dataset.field;
      const said = everywhere || touched.has(name) ? errors[name] || "" : "";
      one(`#${box.id}-said`).textContent = said;
      box.setAttribute("aria-invalid", said ? "true" : "false");
      if (said) first ||= box;
    }
    one('[data-of="consent"]').textContent = everywhere ? errors.consent || "" : "";
    if (everywhere && errors.consent) first ||= one("input[name=consent]");
    return first;
  }

  async function check() {
    const said = await post("/check", words()).catch(() => unreachable);
    if (!said.errors) return;
    complain(said.errors, false);
    one(".count").textContent = said.count === null ? ""
      : `Networks of this method on this test set: ${said.count} of at most ${said.most}. `
        + "Choosing by the board is fitting the test set.";
  }

  function choseDataset() {
    const threat = one('[data-field="threat"]');
    const known = Object.values(data.threats);
    if (!threat.value || known.includes(threat.value)) threat.value = data.threats[valueOf("dataset")] || "";
  }

  function choseAwp() {
    const on = !["", "none"].includes(valueOf("awp.direction"));
    for (const part of ["gamma", "warm_up"]) one(`[data-field="awp.${part}"]`).disabled = !on;
  }

  form.oninput = (e) => {
    if (e.target.type === "file") return;
    if (e.target.dataset.field) touched.add(e.target.dataset.field);
    if (e.target.dataset.field === "dataset") choseDataset();
    if (e.target.dataset.field === "awp.direction") choseAwp();
    clearTimeout(timer);
    timer = setTimeout(check, PAUSE);
  };
  choseAwp();

  // ------------------------------------------------------------ the ticket

  form.onsubmit = async (e) => {
    e.preventDefault();
    clearTimeout(timer);
    const whole = one(".whole");
    whole.textContent = "";
    if (!file.sha256) {
      whole.textContent = file.sending ? "The file is still being sent." : "Choose a file of weights first.";
      one("input[type=file]").focus();
      return;
    }
    const button = one("button[type=submit]");
    button.disabled = true;
    const asked = { ...words(), ask: { file_name: file.name.slice(0, 100) }, secret: valueOf("secret") };
    const said = await post("", asked).catch(() => unreachable);
    button.disabled = false;
    if (said.ticket) return done(said);
    const first = complain(said.errors || {}, true);
    whole.textContent = sentence(said);
    first?.focus();
  };

  function done(said) {
    form.hidden = true;
    const section = one(".done");
    section.hidden = false;
    one("h2").textContent = said.secret ? "It has a ticket" : "This question has a ticket already";
    const link = one(".done a");
    link.href = new URL(said.address, location.href).href;
    link.textContent = link.href;
    for (const part of all(".once")) part.hidden = !said.secret;
    one(".done code").textContent = said.secret || "";
    one(".done button").onclick = (e) => navigator.clipboard?.writeText(said.secret)
      .then(() => { e.target.textContent = "Copied"; });
    section.focus();
  }
}
