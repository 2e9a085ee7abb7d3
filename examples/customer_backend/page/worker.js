// Runs while the page is closed. What arrives is `payload` of docs/push-contract.md.
self.addEventListener("push", event => {
  const payload = event.data.json()
  const { title, body } = payload.aps.alert ?? {}
  const shown = self.registration.showNotification(title ?? "New message", {
    body,
    tag: payload.ringback.id, // the same ring again takes the place of the first
    data: payload,
  })
  const badge = self.navigator.setAppBadge?.(payload.UnreadMessages)
  event.waitUntil(Promise.all([shown, badge]))
})

self.addEventListener("notificationclick", event => {
  event.notification.close()
  event.waitUntil(self.clients.openWindow("/"))
})
