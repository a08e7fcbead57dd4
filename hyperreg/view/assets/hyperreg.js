// Choosing and sending files. The address is relative: it keeps the secret first part of the page's own path.
window.trame.utils.hyperreg = {
  pick(role) {
    document.getElementById(`upload-${role}`).click();
  },
  reveal(place) {
    // Once it has unfolded.
    setTimeout(() => document.querySelector(place)?.scrollIntoView({ behavior: "smooth" }), 400);
  },
  drop(role, event) {
    this.upload(role, { files: event.dataTransfer.files });
  },
  async upload(role, input) {
    const file = input.files[0];
    input.value = "";
    if (!file) return;
    let message = "";
    try {
      const response = await fetch(`upload/${role}`, {
        method: "POST",
        headers: { "X-HyperReg-Name": encodeURIComponent(file.name) },
        body: file,
      });
      if (!response.ok) {
        const text = await response.text();
        try {
          message = JSON.parse(text).error;
        } catch {
          message = `The file was not accepted: ${text}`;
        }
      }
    } catch {
      message = "The file could not be sent; is the app still running? A file that is too large is cut off, too.";
    }
    if (message) window.trame.state.set("error", message);
  },
};
document.addEventListener("keydown", event => {
  const state = window.trame.state;
  if (/input|textarea/i.test(event.target.tagName)) return;
  if (event.key === "?") state.set("help", !state.get("help"));
  const alone = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (event.key === "l" && alone && state.get("panel") === "registration") state.set("placing", !state.get("placing"));
  if (event.key === "Escape" && state.get("placing")) state.set("placing", false);
});
