// The token is sent once; from then on the browser holds a cookie that no script can read.

import { find, showTrouble } from "./dom.js";
import { ask } from "./server.js";

find("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  find("trouble").hidden = true;
  try {
    await ask("/sign-in", { token: find("token").value.trim() });
    window.location.assign("/");
  } catch (error) {
    showTrouble(find("trouble"), error.message, null);
    find("token").select();
  }
});
find("token").focus();
