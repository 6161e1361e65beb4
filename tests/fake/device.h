/* A device without a GPU: what core/cuda does, by threads. Every stream is a thread that executes
 * its queue late, so that what does not wait for the right things meets wrong data. */
#ifndef NEAP_FAKE_DEVICE_H
#define NEAP_FAKE_DEVICE_H

/* Runs on the stream when what came before is done. */
__attribute__((visibility("default"))) void fake_enqueue(void *stream, void (*run)(void *argument),
                                                         void *argument);

#endif
